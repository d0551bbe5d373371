package llmqueue

import (
	"cmp"
	"slices"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"
)

// TestQueueDoesWhatTheModelDoes plays random stories to a queue and to a brute-force
// model: arrivals, costs, refunds, overruns, calls longer than their windows, retries,
// provider pauses, cancelations, callers that leave, new limits, revised usage. Every
// attempt must start in the model's order at the model's instant (so no limit is
// exceeded by charges known then, and no startable head waits), every request must end
// once, as in the model, and each glance at a limit must show the model's sum, so that
// reserved = settled + refunded + in flight.
//
// Each of these faults was put into internal/window or internal/line on purpose, and
// each made it fail:
//
// The windows
//   - a charge leaves when its age exceeds the hold, not when it equals it
//   - a full limit refuses what fits exactly
//   - one more than the amount fits
//   - the margin is ignored
//   - only the first window is asked
//   - the last window is not charged
//   - a refund is a new entry of today
//   - a refund is dropped
//   - an overrun is dropped
//   - an overrun of a charge that left is dropped
//   - an overrun of a charge that left is charged whole, not what exceeds it
//   - the highest figure so far is forgotten: a later overrun is charged twice
//   - settling again starts from the reservation, not from the last figure
//   - a refund of a charge that left makes room
//   - input and output are swapped
//   - tokens are input only
//   - room is expected one entry late
//   - a limit of the same identity starts empty
//   - a new period starts empty
//   - a new period starts from the shortest window of its kind
//   - a new kind settles charges it never counted
//   - the entry looked for is the next one
//   - a ring that grows keeps the slots of the old one
//
// The line
//   - the lowest priority starts first
//   - last come first served
//   - virtual time stands still
//   - a tenant that joins is given credit for its idleness
//   - the next head of a tenant starts from its old time
//   - costs are ignored
//   - of equal tags the later arrival goes first
//   - the heap is not restored after a start
//   - who cancels its head keeps the tag of it
//   - a revised estimate does not change the tag
//   - a retry goes to the end of its tenant
//   - retries return in order of returning, not of arrival
//   - a retry charges its tenant's virtual time
//   - removing a retry removes the first of them
//   - slots that are gone are not skipped
//   - gaps are miscounted when they close
//   - a canceled request stays in the count
//   - a tenant that left is remembered as the last one used
//   - a tag may fall behind virtual time
func TestQueueDoesWhatTheModelDoes(t *testing.T) {
	seeds := 600
	if testing.Short() || raceEnabled {
		seeds = 80
	}
	for seed := range uint64(seeds) {
		playSeed(t, seed)
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}

func playSeed(t *testing.T, seed uint64) {
	s := tell(seed)
	var out *seen
	synctest.Test(t, func(t *testing.T) {
		defer func() {
			if t.Failed() {
				t.Logf("seed %d", seed)
			}
		}()
		out = s.play(t)
	})
	m := &model{story: s, seen: out, levels: map[int]*modelLevel{}, all: map[string]*modelRequest{}, refused: map[string]bool{}}
	defer func() {
		if t.Failed() {
			t.Logf("seed %d: limits %v margin %v", seed, s.limits, s.margin)
		}
	}()
	m.follow(t)
	for i, want := range m.starts {
		if i >= len(out.starts) || out.starts[i] != want {
			got := "nothing"
			if i < len(out.starts) {
				got = out.starts[i].String()
			}
			t.Fatalf("seed %d: start %d is %q, the model starts %q", seed, i, got, want)
		}
	}
	require.Len(t, out.starts, len(m.starts), "seed %d: more starts than the model's", seed)
	byID := func(a, b happened) int { return cmp.Compare(a.id, b.id) }
	slices.SortFunc(out.ends, byID)
	slices.SortFunc(m.ends, byID)
	require.Equal(t, m.ends, out.ends, "seed %d: every request ends once, and as in the model", seed)
	require.Equal(t, m.refused, out.refused, "seed %d", seed)
	require.Len(t, out.ends, len(s.requests)-len(out.refused), "seed %d", seed)
	require.EqualValues(t, len(out.ends), out.info.Accepted, "seed %d", seed)
}
