package window

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// What others hold is compared with stepping through every nanosecond of a window
// of a few hundred.
func TestOthersLeaveRoomWhenTheySaid(t *testing.T) {
	for seed := range uint64(2000) {
		r := rand.New(rand.NewPCG(seed, 3))
		amount := 1 + r.Int64N(30)
		s := NewSet(noon, []Limit{{Kind: Tokens, Amount: amount, Period: 200, Margin: time.Duration(r.Int64N(20))}})
		now := noon
		charge := func(n int64) Charge { return Charge{1, n, 0} }
		type told struct {
			n           int64
			from, until time.Time
			evenly      bool
			later       int64
			end         time.Time
		}
		var others told
		held := func(at time.Time) int64 { // rounded up, as a bucket that refills evenly
			switch d := others.until.Sub(others.from); {
			case !at.Before(others.until):
				if at.Before(others.end) {
					return others.later
				}
				return 0
			case !others.evenly:
				return others.n
			default:
				return max((others.n*int64(others.until.Sub(at))+int64(d)-1)/int64(d), others.later)
			}
		}
		for range 40 {
			now = now.Add(time.Duration(r.Int64N(30)))
			if r.IntN(3) == 0 {
				others = told{n: 1 + r.Int64N(amount), from: now, until: now.Add(time.Duration(1 + r.Int64N(250))), evenly: r.IntN(2) == 0}
				s.Others(now, 0, others.n, others.until, others.evenly)
				if r.IntN(2) == 0 {
					others.later, others.end = 1+r.Int64N(others.n), others.until.Add(time.Duration(1+r.Int64N(100)))
					s.OthersLater(now, 0, others.later, others.end)
				}
			}
			n := 1 + r.Int64N(amount)
			used, available, _ := s.Usage(now, 0)
			require.Equal(t, s.logs[0].sum[Tokens]+held(now), used, "seed %d", seed)
			require.Equal(t, max(amount-used, 0), available, "seed %d", seed)

			at, limit := s.Next(now, charge(n))
			first := now // by stepping
			for {
				left := int64(0)
				for pos := s.logs[0].head; pos != s.logs[0].tail; pos++ {
					if e := s.logs[0].at(pos); int64(first.Sub(noon))-e.at < s.logs[0].hold {
						left += e.n[Tokens]
					}
				}
				if left+held(first)+n <= amount {
					break
				}
				first = first.Add(1)
			}
			require.Equal(t, first, at, "seed %d: of %d, room for %d beside %+v", seed, amount, n, others)
			require.Equal(t, first.Equal(now), limit < 0, "seed %d", seed)
			require.False(t, forecast(s, now, Charge{}, charge(n)).Before(first), "seed %d", seed)

			_, ok := s.Reserve(now, charge(n))
			require.Equal(t, first.Equal(now), ok, "seed %d", seed)
		}
	}
}

func TestOthersAreReplacedCappedAndForgotten(t *testing.T) {
	s := NewSet(noon, []Limit{{Kind: Requests, Amount: 10, Period: time.Minute}})
	used := func(now time.Time) int64 {
		n, _, _ := s.Usage(now, 0)
		return n
	}
	s.Others(noon, 0, 50, noon.Add(time.Minute), false)
	require.EqualValues(t, 10, used(noon), "no more than all of it")
	s.Others(noon, 0, 4, noon.Add(time.Minute), true)
	require.EqualValues(t, 4, used(noon))
	require.EqualValues(t, 2, used(noon.Add(30*time.Second)))
	require.EqualValues(t, 2, used(noon.Add(31*time.Second)), "rounded up")
	_, _, reset := s.Usage(noon.Add(31*time.Second), 0)
	require.Equal(t, noon.Add(time.Minute), reset)

	s.SetLimits(noon.Add(31*time.Second), []Limit{{Kind: Requests, Amount: 1, Period: time.Minute}})
	require.EqualValues(t, 1, used(noon.Add(31*time.Second)), "a lower limit keeps them, as far as they fit")
	s.Others(noon.Add(32*time.Second), 0, 0, noon.Add(time.Hour), false)
	require.Zero(t, used(noon.Add(32*time.Second)), "taken back")
}

func TestOthersOfADay(t *testing.T) {
	s := NewSet(noon, []Limit{{Kind: Requests, Amount: 10, Period: 24 * time.Hour, Daily: time.UTC}})
	midnight := noon.Truncate(24 * time.Hour).Add(24 * time.Hour)
	for range 8 {
		_, ok := s.Reserve(noon, Charge{Requests: 1})
		require.True(t, ok)
	}
	s.Others(noon, 0, 2, noon.Add(time.Hour), false)
	at, _ := s.Next(noon, Charge{Requests: 1})
	require.Equal(t, noon.Add(time.Hour), at, "when the others' leave")
	s.Others(noon, 0, 2, midnight.Add(time.Hour), false)
	at, _ = s.Next(noon, Charge{Requests: 3})
	require.Equal(t, midnight, at, "at the reset there is room beside them")
	at, _ = s.Next(noon, Charge{Requests: 9})
	require.Equal(t, midnight.Add(time.Hour), at)
}

func TestChargedAfterAReservation(t *testing.T) {
	s := NewSet(noon, []Limit{{Kind: Tokens, Amount: 100, Period: time.Minute}})
	var r [5]Reservation
	for i := range r {
		var ok bool
		r[i], ok = s.Reserve(noon.Add(time.Duration(i/2)*time.Second), Charge{1, 10, 0})
		require.True(t, ok)
	}
	require.EqualValues(t, 30, s.ChargedAfter(0, &r[0], noon.Add(time.Second)), "the one of the same instant, and two")
	require.EqualValues(t, 40, s.ChargedAfter(0, &r[0], noon.Add(time.Hour)))
	require.Zero(t, s.ChargedAfter(0, &r[4], noon.Add(time.Hour)))
	require.Equal(t, []int64{50}, s.Booked(nil))
}
