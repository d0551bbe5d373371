package window

import (
	"fmt"
	"math"
	"math/big"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

var noon = time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)

func at(s string) time.Time {
	d, err := time.ParseDuration(s)
	if err != nil {
		panic(err)
	}
	return noon.Add(d)
}

func tokens(n int64) Charge { return Charge{Requests: 1, Input: n} }

// room says what the set would still let start, in one line.
func room(s *Set, now time.Time) (available []int64) {
	for i := range s.Limits() {
		_, n, _ := s.Usage(now, i)
		available = append(available, n)
	}
	return available
}

func reserve(t *testing.T, s *Set, now time.Time, c Charge) *Reservation {
	t.Helper()
	r, ok := s.Reserve(now, c)
	require.True(t, ok, "%v does not fit", c)
	return &r
}

func TestNoLimitsAdmitEverything(t *testing.T) {
	s := NewSet(noon, nil)
	c := tokens(math.MaxInt64)
	r := reserve(t, s, noon, c)
	require.False(t, s.Settle(noon, r, Charge{}))
	s.Add(noon, c)
	s.Undo(noon, r)
	next, limit := s.Next(noon, c)
	require.Equal(t, noon, next)
	require.Equal(t, -1, limit)
	require.Equal(t, -1, s.Exceeds(c))
	require.Zero(t, s.Share(c))
	require.Equal(t, noon, forecast(s, noon, c, c))
	require.Empty(t, s.Limits())
}

func TestChargeLeavesAfterPeriodAndMargin(t *testing.T) {
	s := NewSet(noon, []Limit{{Kind: Requests, Amount: 1, Period: time.Minute, Margin: time.Second}})
	reserve(t, s, noon, tokens(5))
	_, ok := s.Reserve(at("61s").Add(-1), tokens(5))
	require.False(t, ok)
	reserve(t, s, at("61s"), tokens(5))
}

// A request that ends after its minute counts in the day as it was, and what
// it used beyond its estimate still costs the minute in which that is known.
func TestCallLongerThanAWindow(t *testing.T) {
	s := NewSet(noon, []Limit{
		{Kind: Tokens, Amount: 100, Period: time.Minute},
		{Kind: Tokens, Amount: 1000, Period: 24 * time.Hour},
	})
	r := reserve(t, s, noon, tokens(60))
	require.Equal(t, []int64{100, 940}, room(s, at("2m")))

	require.False(t, s.Settle(at("2m"), r, tokens(90)), "no room came free")
	require.Equal(t, []int64{70, 910}, room(s, at("2m")), "30 more now, and 30 on the day's entry")
	require.True(t, s.Settle(at("2m"), r, tokens(20)))
	require.Equal(t, []int64{70, 980}, room(s, at("2m")), "the day gets its refund, the minute has none to give")
	s.Settle(at("2m"), r, tokens(90))
	require.Equal(t, []int64{70, 910}, room(s, at("2m")), "the same overrun is not charged twice")
	require.Equal(t, []int64{100, 910}, room(s, at("3m")))
}

func TestUsage(t *testing.T) {
	s := NewSet(noon, []Limit{
		{Kind: Tokens, Amount: 100, Period: time.Minute, Margin: time.Second},
		{Kind: Output, Amount: 10, Period: time.Hour},
		{Kind: Requests, Amount: 5, Period: 24 * time.Hour, Daily: newYork},
	})
	used, available, resetAt := s.Usage(noon, 0)
	require.Zero(t, used)
	require.EqualValues(t, 100, available)
	require.True(t, resetAt.IsZero())

	r := reserve(t, s, noon, Charge{1, 80, 5})
	reserve(t, s, at("10s"), tokens(10))
	s.Settle(at("20s"), r, Charge{1, 100, 5})
	used, available, resetAt = s.Usage(at("20s"), 0)
	require.EqualValues(t, 115, used)
	require.Zero(t, available, "an overrun leaves nothing, and never less than nothing")
	require.Equal(t, at("71s"), resetAt)
	_, _, resetAt = s.Usage(at("20s"), 1)
	require.Equal(t, at("1h"), resetAt, "the later request used no output")
	_, _, resetAt = s.Usage(at("20s"), 2)
	require.True(t, resetAt.Equal(time.Date(2026, 6, 2, 0, 0, 0, 0, newYork)))
}

func TestShareAndExceeds(t *testing.T) {
	s := NewSet(noon, []Limit{
		{Kind: Requests, Amount: 10, Period: time.Minute},
		{Kind: Tokens, Amount: 100, Period: time.Minute},
		{Kind: Output, Amount: 50, Period: time.Minute},
	})
	require.InDelta(t, 0.5, s.Share(Charge{1, 25, 25}), 1e-9)
	require.InDelta(t, 0.4, s.Share(Charge{4, 1, 1}), 1e-9)
	require.Equal(t, -1, s.Exceeds(Charge{10, 50, 50}))
	require.Equal(t, 1, s.Exceeds(Charge{1, 60, 60}))
	require.Equal(t, 2, s.Exceeds(Charge{1, 0, 51}))
	next, limit := s.Next(noon, Charge{1, 0, 51})
	require.True(t, next.IsZero())
	require.Equal(t, 2, limit)
}

func TestAbsurdFiguresDoNotOverflow(t *testing.T) {
	s := NewSet(noon, []Limit{
		{Kind: Tokens, Amount: 100, Period: time.Minute, Burst: 50},
		{Kind: Input, Amount: math.MaxInt64, Period: 24 * time.Hour, Burst: math.MaxInt64 - 1},
	})
	r := reserve(t, s, noon, tokens(1))
	for range 100 {
		s.Settle(at("1s"), r, Charge{math.MaxInt64, math.MaxInt64, math.MaxInt64})
		s.Add(at("1s"), Charge{math.MaxInt64, math.MaxInt64, math.MaxInt64})
	}
	_, ok := s.Reserve(at("2s"), tokens(1))
	require.False(t, ok)
	next, _ := s.Next(at("2s"), tokens(1))
	require.Greater(t, next.Sub(noon), 1000*time.Hour)
	require.Greater(t, forecast(s, at("2s"), tokens(math.MaxInt64), tokens(1)).Sub(noon), 1000*time.Hour)
	s.Settle(at("3s"), r, Charge{-5, -5, -5})
	require.Equal(t, int64(100<<48), s.windows[1].log.sum[Input])
	require.EqualValues(t, 7, Charge{1, 3, 4}.Tokens())
	require.EqualValues(t, math.MaxInt64, u128{1, 0}.ceilDiv(2))
}

// Reserving here, being refused elsewhere and taking it back costs no memory
// and no exactness.
func TestUndoLeavesNothing(t *testing.T) {
	s := NewSet(noon, []Limit{{Kind: Tokens, Amount: 100, Period: time.Minute, Burst: 40}})
	kept := reserve(t, s, noon, tokens(10))
	for range 1000 {
		s.Undo(noon, reserve(t, s, noon, tokens(30)))
	}
	l := s.logs[0]
	require.EqualValues(t, 1, l.tail-l.head)
	reserve(t, s, noon, tokens(30))
	require.True(t, s.Settle(noon, kept, tokens(5)), "the entries are still found")
	require.Equal(t, []int64{65}, room(s, noon))
	next, _ := s.Next(noon, tokens(10))
	require.Equal(t, at("3s"), next, "35 are owed, 5 of them have to drain")
}

func TestForecastAfterAnEmptyEntryIsReplaced(t *testing.T) {
	s := NewSet(noon, []Limit{{Kind: Tokens, Amount: 100, Period: time.Minute}})
	reserve(t, s, noon, tokens(20))
	r := reserve(t, s, at("1s"), tokens(20))
	s.Settle(at("1s"), r, Charge{})
	require.Equal(t, at("60s"), forecast(s, at("1s"), tokens(80), tokens(1)))
	s.Undo(at("1s"), r)
	reserve(t, s, at("2s"), tokens(50))
	reserve(t, s, at("3s"), tokens(10))
	require.Equal(t, at("62s"), forecast(s, at("3s"), tokens(79), tokens(1)))
}

func TestZeroReservationIsNone(t *testing.T) {
	s := NewSet(noon, []Limit{{Kind: Tokens, Amount: 100, Period: time.Minute}})
	reserve(t, s, noon, tokens(10))
	var r Reservation
	require.False(t, s.Settle(noon, &r, tokens(50)))
	s.Undo(noon, &r)
	require.Equal(t, []int64{90}, room(s, noon))
}

func TestCopyOfAnUndoneReservationIsNone(t *testing.T) {
	s := NewSet(noon, []Limit{{Kind: Tokens, Amount: 100, Period: time.Minute}})
	r := reserve(t, s, noon, tokens(10))
	stale := *r
	s.Undo(noon, r)
	require.False(t, s.Settle(noon, &stale, tokens(50)))
	r = reserve(t, s, noon, tokens(10))
	last := reserve(t, s, noon, tokens(10))
	stale = *last
	s.Undo(noon, last)
	require.False(t, s.Settle(noon, &stale, tokens(50)))
	require.Equal(t, []int64{90}, room(s, noon))
	require.True(t, s.Settle(noon, r, tokens(0)))
}

func TestAddKeepsOrder(t *testing.T) {
	s := NewSet(noon, []Limit{{Kind: Requests, Amount: 3, Period: time.Minute}})
	s.Add(at("-2m"), tokens(1)) // has left
	s.Add(at("-50s"), tokens(1))
	s.Add(at("-70s"), tokens(1)) // counts from -50s
	require.Equal(t, []int64{1}, room(s, noon))
	require.Equal(t, []int64{1}, room(s, at("10s").Add(-1)))
	require.Equal(t, []int64{3}, room(s, at("10s")))
	s.Add(at("20s"), tokens(1))
	require.Equal(t, []int64{2}, room(s, at("15s")), "an instant before the latest one is taken for it")
	require.Equal(t, []int64{3}, room(s, at("80s")))
}

// Two requests a second against a rate of one a second with a burst of three:
// a refund brings back only what has not drained anyway.
func TestRefundGivesBackOnlyWhatIsStillOwed(t *testing.T) {
	s := NewSet(noon, []Limit{{Kind: Tokens, Amount: 60, Period: time.Minute, Burst: 10}})
	early := reserve(t, s, noon, tokens(10))
	reserve(t, s, at("8s"), tokens(8)) // 2 were still owed
	s.Settle(at("8s"), early, tokens(0))
	next, _ := s.Next(at("8s"), tokens(5))
	require.Equal(t, at("11s"), next, "8 are owed still: of the early request's 10, 8 had drained")
	s.Settle(at("8s"), early, tokens(10))
	next, _ = s.Next(at("8s"), tokens(0))
	require.Equal(t, at("16s"), next, "an overrun is owed in full")
}

func TestLargerThanBurstWaitsForAnEmptyDebt(t *testing.T) {
	s := NewSet(noon, []Limit{{Kind: Tokens, Amount: 60, Period: time.Minute, Burst: 10}})
	reserve(t, s, noon, tokens(3))
	next, limit := s.Next(noon, tokens(30))
	require.Equal(t, at("3s"), next)
	require.Zero(t, limit)
	reserve(t, s, at("3s"), tokens(30))
	next, _ = s.Next(at("3s"), tokens(10))
	require.Equal(t, at("33s"), next)
	require.Equal(t, at("33s"), forecast(s, at("3s"), tokens(0), tokens(10)))
	require.Equal(t, at("38s"), forecast(s, at("3s"), tokens(5), tokens(10)))
	require.Equal(t, at("38s"), forecast(s, at("3s"), tokens(5), tokens(20)))
}

func TestSetLimits(t *testing.T) {
	s := NewSet(noon, []Limit{
		{Kind: Requests, Amount: 10, Period: time.Minute},
		{Kind: Tokens, Amount: 100, Period: time.Minute},
	})
	r := reserve(t, s, noon, tokens(40))
	reserve(t, s, at("30s"), tokens(10))
	s.SetLimits(at("30s"), []Limit{
		{Kind: Requests, Amount: 20, Period: time.Minute, Burst: 3},
		{Kind: Tokens, Amount: 1000, Period: 24 * time.Hour, Daily: time.UTC},
		{Kind: Input, Amount: 100, Period: time.Minute},
	})
	require.Equal(t, []int64{18, 950, 50}, room(s, at("30s")),
		"carried over, and started from what the minutes know")
	next, limit := s.Next(at("30s"), Charge{Requests: 3})
	require.Equal(t, at("33s"), next, "1 is owed: the pacing starts from the charges too")
	require.Zero(t, limit)
	s.Settle(at("30s"), r, tokens(50))
	require.Equal(t, []int64{18, 940, 40}, room(s, at("30s")))
	s.Settle(at("2m"), r, tokens(60))
	require.Equal(t, []int64{20, 930, 90}, room(s, at("2m")))
}

// A limit that is taken out and put back knows what started meanwhile.
func TestALimitThatIsPutBackKnowsWhatStartedMeanwhile(t *testing.T) {
	rpm := Limit{Kind: Requests, Amount: 10, Period: time.Minute}
	for name, others := range map[string][]Limit{
		"another kind stays": {{Kind: Tokens, Amount: 1000, Period: time.Minute}},
		"longer ones stay":   {{Kind: Tokens, Amount: 1e6, Period: 24 * time.Hour}, {Kind: Output, Amount: 1e6, Period: time.Second}},
		"after midnight":     {{Kind: Tokens, Amount: 1e6, Period: 24 * time.Hour, Daily: time.UTC}, {Kind: Tokens, Amount: 1e6, Period: time.Hour}},
		"a daily one stays":  {{Kind: Tokens, Amount: 1e6, Period: 24 * time.Hour, Daily: newYork}},
		"nothing stays":      nil,
	} {
		t.Run(name, func(t *testing.T) {
			now := time.Date(2026, 6, 1, 23, 59, 40, 0, time.UTC)
			s := NewSet(now, append([]Limit{rpm}, others...))
			for range 10 {
				reserve(t, s, now, tokens(1))
			}
			s.SetLimits(now.Add(10*time.Second), others)
			last := reserve(t, s, now.Add(20*time.Second), tokens(1))
			for range 9 {
				last = reserve(t, s, now.Add(25*time.Second), tokens(1))
			}
			s.SetLimits(now.Add(30*time.Second), append(others, rpm))
			used, _, resetAt := s.Usage(now.Add(30*time.Second), len(others))
			require.EqualValues(t, 20, used)
			require.True(t, resetAt.Equal(now.Add(85*time.Second)))
			_, ok := s.Reserve(now.Add(79*time.Second), tokens(1))
			require.False(t, ok)
			s.Undo(now.Add(79*time.Second), last)
			used, _, _ = s.Usage(now.Add(79*time.Second), len(others))
			require.EqualValues(t, 9, used, "it counted them all")
			reserve(t, s, now.Add(79*time.Second), tokens(1))
		})
	}
}

// Of several windows a new one starts from the one that knows the longest past,
// which is not always the longest: this one was a day's until midnight.
func TestANewLimitStartsFromTheLongestMemory(t *testing.T) {
	hour := Limit{Kind: Input, Amount: 1000, Period: time.Hour}
	day := Limit{Kind: Tokens, Amount: 1000, Period: 24 * time.Hour}
	long := Limit{Kind: Requests, Amount: 10, Period: 30 * time.Hour}
	daily := day
	daily.Daily = time.UTC
	s := NewSet(at("11h30m"), []Limit{daily, hour})
	reserve(t, s, at("11h30m"), tokens(1))
	s.SetLimits(at("12h10m"), []Limit{day, hour})
	s.SetLimits(at("12h20m"), []Limit{day, hour, long})
	require.Equal(t, []int64{1000, 999, 9}, room(s, at("12h20m")))
}

func TestSteadyDecisionsDoNotAllocate(t *testing.T) {
	now := noon
	s := NewSet(now, []Limit{
		{Kind: Requests, Amount: 100, Period: time.Minute},
		{Kind: Tokens, Amount: 1000, Period: time.Minute, Burst: 500},
		{Kind: Requests, Amount: 1e6, Period: 24 * time.Hour, Daily: newYork},
	})
	decide := func() {
		now = now.Add(time.Second)
		r, ok := s.Reserve(now, tokens(10))
		require.True(t, ok)
		s.Settle(now, &r, tokens(9))
		s.Next(now, tokens(900))
		forecast(s, now, tokens(5000), tokens(10))
	}
	for range 1000 {
		decide()
	}
	require.LessOrEqual(t, testing.AllocsPerRun(900, decide), 0.0)
}

// A window of 100,000 under constant demand: never more than that in any
// period, nearly all of it used, and a ring that stays small.
func TestLargeWindowMerges(t *testing.T) {
	const amount, hold = 100_000, time.Minute
	for name, limit := range map[string]Limit{
		"sliding": {Kind: Requests, Amount: amount, Period: hold},
		"paced":   {Kind: Requests, Amount: amount, Period: hold, Burst: 20_000},
	} {
		t.Run(name, func(t *testing.T) {
			s := NewSet(noon, []Limit{limit})
			random := rand.New(rand.NewPCG(1, 1))
			var starts []time.Time
			oldest, size := 0, 0
			now, end := noon, noon.Add(5*hold)
			for now.Before(end) {
				next, limit := s.Next(now, Charge{Requests: 1})
				if limit >= 0 {
					now = next
				}
				// Demand comes in thousands with pauses, as batches do.
				for range random.IntN(2000) {
					if _, ok := s.Reserve(now, Charge{Requests: 1}); !ok {
						break
					}
					starts = append(starts, now)
					for now.Sub(starts[oldest]) >= hold {
						oldest++
					}
					require.LessOrEqual(t, len(starts)-oldest, amount)
				}
				now = now.Add(time.Duration(random.IntN(int(hold / 2000))))
				size = max(size, len(s.logs[0].ring))
			}
			require.LessOrEqual(t, size, maxEntries)
			require.Greater(t, size, exactEntries)
			require.GreaterOrEqual(t, float64(len(starts)), 0.999*5*amount)
		})
	}
}

func TestForecastAgreesWithStarts(t *testing.T) {
	limits := map[string]Limit{
		"sliding": {Kind: Requests, Amount: 7, Period: time.Minute, Margin: time.Second},
		"hourly":  {Kind: Requests, Amount: 7, Period: time.Hour},
		"daily":   {Kind: Requests, Amount: 7, Period: 24 * time.Hour, Daily: newYork},
		"paced":   {Kind: Requests, Amount: 1000, Period: time.Minute, Burst: 5},
	}
	for name, limit := range limits {
		t.Run(name, func(t *testing.T) {
			for seed := range uint64(50) {
				random := rand.New(rand.NewPCG(seed, 0))
				now := noon
				s := NewSet(now, []Limit{limit})
				var r Reservation
				for range random.IntN(20) {
					if got, ok := s.Reserve(now, Charge{Requests: 1}); ok {
						r = got
					}
					now = now.Add(time.Duration(random.Int64N(int64(limit.Period) / 4)))
				}
				if random.IntN(2) == 0 {
					s.Settle(now, &r, Charge{Requests: random.Int64N(12)})
				}
				ahead := random.Int64N(30)
				want := forecast(s, now, Charge{Requests: ahead}, Charge{Requests: 1})
				for range ahead + 1 {
					now, _ = s.Next(now, Charge{Requests: 1})
					reserve(t, s, now, Charge{Requests: 1})
				}
				require.Equal(t, now, want, "seed %d, %d ahead", seed, ahead)
			}
		})
	}
}

// Forecasts of a long line agree with themselves while starts, ends and
// settlements move the window on.
func TestForecastFollowsTheWindow(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 3))
	now := noon
	s := NewSet(now, []Limit{{Kind: Tokens, Amount: 5000, Period: time.Minute}})
	s.exact = 50
	s.SetLimits(now, s.Limits())
	var flights []Reservation
	for range 5000 {
		switch random.IntN(4) {
		case 0:
			now = now.Add(time.Duration(random.Int64N(int64(time.Second))))
		case 1:
			if r, ok := s.Reserve(now, tokens(random.Int64N(200))); ok {
				flights = append(flights, r)
			}
		case 2:
			if len(flights) > 0 {
				r := &flights[random.IntN(len(flights))]
				if random.IntN(5) == 0 {
					s.Undo(now, r)
				} else {
					s.Settle(now, r, tokens(random.Int64N(200)))
				}
			}
		case 3:
			c := tokens(random.Int64N(5000))
			next, _ := s.Next(now, c)
			require.Equal(t, next, forecast(s, now, Charge{}, c))
			require.Equal(t, next.Add(3*time.Minute), forecast(s, now, tokens(15_000), Charge{Input: max(c.Input, 1)}).Add(0))
		}
	}
}

func TestForecastOfALongLineIsBounded(t *testing.T) {
	for _, limit := range []Limit{
		{Kind: Requests, Amount: 1, Period: 24 * time.Hour},
		{Kind: Requests, Amount: 1, Period: 24 * time.Hour, Daily: newYork},
	} {
		s := NewSet(noon, []Limit{limit})
		require.Greater(t, forecast(s, noon, Charge{Requests: 1e9}, Charge{Requests: 1}).Sub(noon), 90*365*24*time.Hour)
	}
}

// The clock of a machine that slept, and of one that was set back.
func TestClock(t *testing.T) {
	limits := []Limit{{Kind: Requests, Amount: 1, Period: time.Minute}, {Kind: Requests, Amount: 1, Period: time.Hour}}
	wallStep := func(s *Set, d time.Duration) { s.clock.epoch = s.clock.epoch.Add(d) }

	s := NewSet(noon, limits)
	reserve(t, s, noon, tokens(1))
	wallStep(s, time.Hour) // the wall clock goes on for an hour while the monotonic one stands still
	require.Equal(t, []int64{0, 1}, room(s, at("1h")))
	require.Equal(t, []int64{1, 1}, room(s, at("61m")))

	s = NewSet(noon, limits)
	reserve(t, s, noon, tokens(1))
	wallStep(s, -10*time.Hour)
	require.Equal(t, []int64{0, 0}, room(s, at("-10h")))
	require.Equal(t, []int64{1, 0}, room(s, at("-9h1ns").Add(-time.Second)))
	require.Equal(t, []int64{1, 1}, room(s, at("-9h")), "an hour after the start, whatever the wall clock says")
}

func TestInABubble(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := NewSet(time.Now(), []Limit{
			{Kind: Requests, Amount: 1, Period: time.Minute},
			{Kind: Tokens, Amount: 10, Period: 24 * time.Hour, Daily: time.UTC},
		})
		started := time.Now()
		for range 15 {
			next, _ := s.Next(time.Now(), tokens(1))
			time.Sleep(time.Until(next))
			reserve(t, s, time.Now(), tokens(1))
		}
		require.Equal(t, 24*time.Hour+4*time.Minute, time.Since(started))
	})
}

func FuzzU128(f *testing.F) {
	f.Add(int64(3), int64(5), int64(7), int64(11), int64(13))
	f.Add(int64(math.MaxInt64), int64(math.MaxInt64), int64(1), int64(1), int64(1))
	f.Fuzz(func(t *testing.T, a, b, c, d, e int64) {
		pos := func(n int64) int64 { return max(n&math.MaxInt64, 1) }
		a, b, c, d, e = pos(a), pos(b), pos(c), pos(d), pos(e)
		x, y := mul(a, b), mul(c, d)
		product := func(a, b int64) *big.Int { return new(big.Int).Mul(big.NewInt(a), big.NewInt(b)) }
		bx, by := product(a, b), product(c, d)
		same := func(want *big.Int, got u128) {
			t.Helper()
			require.Equal(t, want.String(), new(big.Int).Add(
				new(big.Int).Lsh(new(big.Int).SetUint64(got.hi), 64), new(big.Int).SetUint64(got.lo)).String())
		}
		same(bx, x)
		same(new(big.Int).Add(bx, by), x.plus(y))
		require.Equal(t, bx.Cmp(by) > 0, x.more(y))
		if x.more(y) {
			same(new(big.Int).Sub(bx, by), x.minus(y))
			require.Equal(t, y, x.min(y))
		} else {
			require.Equal(t, u128{}, x.minus(y))
			require.Equal(t, x, x.min(y))
		}
		q := new(big.Int).Div(new(big.Int).Add(bx, big.NewInt(e-1)), big.NewInt(e))
		if !q.IsInt64() {
			q.SetInt64(math.MaxInt64)
		}
		require.Equal(t, q.Int64(), x.ceilDiv(e), fmt.Sprint(x, e))
	})
}

func forecast(s *Set, now time.Time, ahead, own Charge) time.Time {
	at, _ := s.Forecast(now, ahead, own)
	return at
}
