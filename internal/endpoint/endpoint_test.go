package endpoint

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
)

// more is an accounting that reserves more than the estimate.
type more struct{}

func (more) Reserved(u Usage, n, _ int64) Usage {
	u.Output += 10 * n
	return u
}
func (more) Settled(_, used Usage) Usage { return used }

// A request of unknown size always fits sometime, whatever the mean and the accounting make
// of it: nobody could tell its caller that it is too large.
func TestUnknownSizeAlwaysFits(t *testing.T) {
	for name, limits := range map[string][]Limit{
		"tokens":           {{Kind: TPM, Amount: 30}},
		"input and output": {{Kind: ITPM, Amount: 20}, {Kind: OTPM, Amount: 5}},
		"all three":        {{Kind: TPM, Amount: 30}, {Kind: ITPM, Amount: 25}, {Kind: OTPM, Amount: 20}},
	} {
		for _, a := range []Accounting{nil, more{}} {
			e := New(0, time.Unix(0, 0), Config{Limits: limits, Accounting: a, Emit: func(Event) {}})
			for _, mean := range []Usage{{}, {Input: 27, Output: 3}, {Input: 1000, Output: 1000}} {
				u := e.Reservation(Usage{}, false, mean)
				limit, never := e.Exceeds(u)
				assert.False(t, never, "%s: %v of a mean of %v never fits %+v, and waits forever", name, u, mean, limit)
			}
		}
	}
}
