package engine

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/llmqueue/llmqueue/internal/endpoint"
)

// newEngine makes an engine with one endpoint.
func newEngine(cfg Config, limits ...endpoint.Limit) *Engine {
	q := New(cfg)
	q.AddEndpoint(1, endpoint.New(1, time.Unix(0, 0), endpoint.Config{Limits: limits, Emit: q.Emit}))
	return q
}

// Where a slot and a limit hold the head, an owner that knows when the slot is free learns
// which of them holds it longer.
func TestHeadComparesSlotsAndLimits(t *testing.T) {
	minute := int64(time.Minute)
	rpm, slots := endpoint.Limit{Kind: endpoint.RPM, Amount: 2}, endpoint.Limit{Kind: endpoint.Concurrent, Amount: 1}
	q := newEngine(Config{}, rpm, slots)
	request := Request{Estimate: endpoint.Usage{Input: 1}, Sized: true}
	_, _, waits := q.Head(0)
	assert.False(t, waits)

	q.Submit(1, &request, nil)
	head := q.Submit(1, &request, nil)
	h, w, waits := q.Head(0)
	require.True(t, waits)
	assert.Equal(t, head, h)
	assert.Equal(t, endpoint.Wait{At: endpoint.Never, Cause: endpoint.Slot, Guessed: true}, w, "nothing has ended yet")
	_, w, _ = q.Head(100)
	assert.Equal(t, endpoint.Wait{At: 100, Cause: endpoint.Slot}, w)

	q.Effects = q.Effects[:0]
	q.Conclude(100, 0, &Ending{})
	q.Submit(100, &request, nil) // no request is left for it in this minute
	for slot, want := range map[int64]endpoint.Wait{
		1000:       {At: 1 + minute, Cause: endpoint.WindowLimit, Limit: rpm},
		1 + minute: {At: 1 + minute, Cause: endpoint.Slot},
		2 * minute: {At: 2 * minute, Cause: endpoint.Slot},
	} {
		_, w, _ = q.Head(slot)
		assert.Equal(t, want, w, "the slot is free at %v", time.Duration(slot))
	}
}
