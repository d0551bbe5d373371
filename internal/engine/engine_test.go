package engine

import (
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/llmqueue/llmqueue/internal/endpoint"
	"github.com/llmqueue/llmqueue/internal/line"
)

const second = int64(time.Second)

// bench is an engine with one endpoint, and short words for what its owner does.
type bench struct {
	*Engine
	t     *testing.T
	way   *endpoint.Endpoint
	now   int64
	clock *int64 // that follows now, nil for none
}

func newBench(t *testing.T, cfg Config, ec endpoint.Config) *bench {
	if cfg.MaxAttempts == 0 {
		cfg.MaxAttempts = 3
	}
	b := &bench{Engine: New(cfg), t: t}
	ec.Emit, ec.Margin = b.Emit, 0
	b.way = endpoint.New(0, time.Unix(0, 0), ec)
	b.AddEndpoint(0, b.way)
	return b
}

func limited(limits ...endpoint.Limit) endpoint.Config { return endpoint.Config{Limits: limits} }

func concurrent(n int64) endpoint.Limit { return endpoint.Limit{Kind: endpoint.Concurrent, Amount: n} }

// add adds another endpoint.
func (b *bench) add(ec endpoint.Config) *endpoint.Endpoint {
	ec.Emit, ec.Margin = b.Emit, 0
	e := endpoint.New(b.now, time.Unix(0, 0), ec)
	e.ID = uint32(len(b.Endpoints()))
	b.AddEndpoint(b.now, e)
	return e
}

// wake lets time go on.
func (b *bench) wake(now int64) {
	if b.now = now; b.clock != nil {
		*b.clock = now
	}
	b.Wake(now)
}

// at is where the latest attempt of a request went.
func (b *bench) at(h uint32) *endpoint.Endpoint { return b.View(h).Endpoint }

// submit takes in a request that is served here if at all.
func (b *bench) submit(r Request) uint32 {
	b.t.Helper()
	require.Nil(b.t, b.Refuse(b.now, &r, false))
	require.Nil(b.t, b.Unserved(&r))
	return b.Submit(b.now, &r, nil)
}

// ends concludes the attempt under way of a request.
func (b *bench) ends(h uint32, e Ending) {
	b.t.Helper()
	v := b.View(h)
	require.True(b.t, v.UnderWay, "an attempt of %d is under way", h)
	b.Conclude(b.now, v.Attempt, &e)
}

// effects are those since the last call, without what endpoints tell.
func (b *bench) effects() (all []Effect) {
	for _, e := range b.Effects {
		if e.Kind != EndpointEvent {
			all = append(all, e)
		}
	}
	b.Effects = b.Effects[:0]
	return all
}

// count is how many effects of that kind there were since the last call.
func (b *bench) count(kind EffectKind) (n int) {
	for _, e := range b.effects() {
		if e.Kind == kind {
			n++
		}
	}
	return n
}

// Full jitter: a retry waits for anything between nothing and the backoff, so that requests
// that failed together do not come back together.
func TestRetryDelaysAreSpreadOverTheBackoff(t *testing.T) {
	const base, most = int64(500 * time.Millisecond), int64(time.Minute)
	q := New(Config{BaseDelay: base, MaxDelay: most, Seed: 1})
	for n := 1; n < 200; n++ {
		ceiling := most
		if n < 8 {
			ceiling = min(most, base<<(n-1))
		}
		lowest, highest := int64(math.MaxInt64), int64(0)
		for range 300 {
			d := q.delay(n)
			lowest, highest = min(lowest, d), max(highest, d)
		}
		assert.GreaterOrEqual(t, lowest, int64(0))
		assert.LessOrEqual(t, highest, ceiling, "attempt %d waits too long", n)
		assert.Less(t, lowest, ceiling/10, "attempt %d always waits for long", n)
		assert.Greater(t, highest, ceiling-ceiling/10, "attempt %d never waits for long", n)
	}
	assert.LessOrEqual(t, New(Config{BaseDelay: 2 * most, MaxDelay: most}).delay(1), most, "the first is within MaxDelay too")
	assert.Zero(t, New(Config{}).delay(5))
	a, b := New(Config{BaseDelay: base, MaxDelay: most, Seed: 7}), New(Config{BaseDelay: base, MaxDelay: most, Seed: 7})
	for n := range 20 {
		assert.Equal(t, a.delay(n+1), b.delay(n+1), "the seed decides")
	}
}

// waiting5000 is an engine in which one request runs and 5,000 wait.
func waiting5000(t *testing.T, cfg Config) *bench {
	b := newBench(t, cfg, limited(concurrent(1)))
	for range 5001 {
		b.submit(Request{Sized: true, Estimate: endpoint.Usage{Input: 10}})
	}
	require.Equal(t, 5000, b.Waiting())
	b.effects()
	return b
}

// What ends thousands of requests does so in slices, between which others have the lock.
func TestSweepsEndWhatWaitsInSlices(t *testing.T) {
	for name, begin := range map[string]func(b *bench){
		"cut off":           func(b *bench) { b.CutOff(b.now) },
		"closed and paused": func(b *bench) { b.Pause(b.now); b.Close(b.now) },
		"paused and closed": func(b *bench) { b.Close(b.now); b.Pause(b.now) },
		"too large": func(b *bench) {
			b.SetLimits(b.now, b.way, []endpoint.Limit{{Kind: endpoint.TPM, Amount: 5}, concurrent(1)})
		},
		"quota": func(b *bench) {
			b.Observe(b.now, 0, &endpoint.Observation{Outcome: endpoint.QuotaExhausted, Delay: second})
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := waiting5000(t, Config{})
			begin(b)
			ended := b.count(End)
			assert.Positive(t, ended)
			assert.LessOrEqual(t, ended, 1024, "the lock was held for all of them")
			for slices := 1; b.Sweeping(); slices++ {
				require.Less(t, slices, 12, "it never ends")
				assert.Positive(t, b.Next(), "there is more to do")
				assert.LessOrEqual(t, b.Next(), max(b.now, 1), "and at once")
				b.Sweep(b.now)
				n := b.count(End)
				assert.LessOrEqual(t, n, 1024)
				ended += n
			}
			assert.GreaterOrEqual(t, ended, 5000)
			assert.Zero(t, b.Waiting())
		})
	}
}

func TestResumeStopsASweepForAnExhaustedQuota(t *testing.T) {
	b := waiting5000(t, Config{})
	b.Observe(0, 0, &endpoint.Observation{Outcome: endpoint.QuotaExhausted, Delay: 60 * second})
	ended := b.count(End)
	require.True(t, b.Sweeping())
	b.Resume(0)
	for b.Sweeping() {
		b.Sweep(0)
	}
	assert.Zero(t, b.count(End), "the quota is renewed, and requests fail for it")
	assert.Equal(t, 5000-ended, b.Waiting())
}

// Where a quota is waited for, nothing fails when it is used up.
func TestWaitForQuotaFailsNothing(t *testing.T) {
	b := newBench(t, Config{WaitForQuota: true}, limited(concurrent(1)))
	first, second := b.submit(Request{Sized: true}), b.submit(Request{Sized: true})
	b.Observe(0, b.View(first).Attempt, &endpoint.Observation{Outcome: endpoint.QuotaExhausted, Delay: 100})
	b.ends(first, Ending{Verdict: Exhausted})
	assert.Zero(t, b.count(End))
	assert.EqualValues(t, 100, b.Next())
	b.Wake(100)
	assert.Equal(t, Running, b.State(first), "it comes back to where it was")
	assert.Equal(t, InLine, b.State(second))
}

// A request that is forgotten while its attempt goes on keeps its handle, and the page that
// is in, until that is over.
func TestForgetWhileAnAttemptIsUnderWay(t *testing.T) {
	b := newBench(t, Config{}, limited(concurrent(500)))
	var all []uint32
	for range PageSize + 1 {
		all = append(all, b.submit(Request{Sized: true}))
	}
	late, elsewhere := all[0], all[PageSize]
	require.NotEqual(t, late/PageSize, elsewhere/PageSize)
	for _, h := range all[1:PageSize] {
		b.ends(h, Ending{})
	}
	require.True(t, b.Cancel(0, late, CanceledState, Canceled))
	assert.Equal(t, 1, b.Counts().Abandoned)
	gone, freed := b.Forget(late)
	assert.False(t, gone, "its attempt is under way")
	assert.False(t, freed)
	assert.Zero(t, b.Seq(late), "nobody finds it")
	for _, h := range all[1:PageSize] {
		gone, freed := b.Forget(h)
		assert.True(t, gone)
		assert.False(t, freed, "the page is given back, and an attempt under way is in it")
	}
	b.effects()
	b.ends(late, Ending{})
	assert.Equal(t, []Effect{{Kind: Gone, Handle: late, PageFreed: true}}, b.effects())
	assert.Zero(t, b.Counts().Abandoned)
	b.ends(elsewhere, Ending{})
	gone, freed = b.Forget(elsewhere)
	assert.True(t, gone)
	assert.False(t, freed, "one page is kept")
	assert.Zero(t, b.Live())
}

// A follower's MaxWait is looked after also while a fallback has the call.
func TestMaxWaitOfAFollowerWhoseCallIsElsewhere(t *testing.T) {
	b := newBench(t, Config{Fallback: true}, limited(concurrent(1)))
	b.submit(Request{Sized: true})
	h := b.Submit(0, &Request{Call: true, Sized: true}, nil)
	patient := b.Join(0, h, &Request{Sized: true}, true)
	hasty := b.Join(0, h, &Request{Sized: true, MaxWait: 100}, false)
	other := b.Join(0, h, &Request{Sized: true, MaxWait: 200}, false)
	b.Observe(0, 0, &endpoint.Observation{Outcome: endpoint.QuotaExhausted, Delay: 10_000})
	require.Equal(t, HandedOff, b.State(h))
	assert.Equal(t, 3, b.Counts().Forwarded)
	b.effects()
	require.EqualValues(t, 100, b.Next())
	b.Wake(99)
	assert.Empty(t, b.effects())
	b.Wake(100)
	assert.Equal(t, []Effect{{Kind: AskElsewhere, Handle: hasty}}, b.effects())
	assert.Equal(t, Following, b.State(hasty), "it may have started there")
	b.ExpireElsewhere(101, hasty)
	ends := b.effects()
	require.Len(t, ends, 1)
	assert.Equal(t, Effect{Kind: End, Handle: hasty, State: Failed, Code: WaitedTooLong}, ends[0])
	assert.Equal(t, HandedOff, b.State(h), "others wait for the call")
	b.ExpireElsewhere(102, hasty)
	assert.Empty(t, b.effects(), "it ended already")

	b.Wake(200)
	assert.Equal(t, []Effect{{Kind: AskElsewhere, Handle: other}}, b.effects()) // it had started there
	b.Finish(300, h, Completed, false)
	b.FinishFollower(300, patient, true, false, endpoint.Usage{})
	b.FinishFollower(300, other, false, false, endpoint.Usage{})
	b.Drop(h)
	assert.Equal(t, Completed, b.State(other))
	counts := b.Counts()
	assert.EqualValues(t, 2, counts.Completed)
	assert.EqualValues(t, 1, counts.Failed)
	assert.Zero(t, counts.Forwarded)
}

// What is said of the request that starts next is what is said of one that comes now with
// nothing ahead, whatever holds it.
func TestOneAnswerToWhyARequestWaits(t *testing.T) {
	big := Request{Sized: true, Estimate: endpoint.Usage{Input: 10}}
	tpm := endpoint.Limit{Kind: endpoint.TPM, Amount: 15}
	opened := &breaker{}
	opened.now = new(int64)
	shared := &set{limit: endpoint.Limit{Kind: endpoint.RPM, Amount: 1, Period: time.Minute}}
	tickets := uint64(0)
	for _, c := range []struct {
		name   string
		config endpoint.Config
		hold   func(b *bench, running uint32)
		cause  endpoint.Cause
		at     int64
	}{
		{"a limit", limited(tpm), func(*bench, uint32) {}, endpoint.WindowLimit, 60 * second},
		{"a slot, and nothing ended yet", limited(concurrent(1)), func(*bench, uint32) {}, endpoint.Slot, endpoint.Never},
		{"a slot", limited(concurrent(1)), func(b *bench, h uint32) {
			b.now = 4 * second
			b.ends(h, Ending{}) // 4 s, and the next one starts
			b.submit(big)
		}, endpoint.Slot, 8 * second},
		{"a pause", limited(concurrent(5)), func(b *bench, h uint32) {
			b.Observe(b.now, b.View(h).Attempt, &endpoint.Observation{Outcome: endpoint.RateLimited, Delay: 7 * second})
		}, endpoint.Pause, 7 * second},
		{"a pause by hand", limited(concurrent(5)), func(b *bench, _ uint32) { b.Pause(b.now) }, endpoint.ManualPause, endpoint.Never},
		{"a breaker", endpoint.Config{Limits: []endpoint.Limit{concurrent(5)}, Breaker: opened}, func(*bench, uint32) {
			opened.half, opened.openUntil = true, 3*second
		}, endpoint.OpenBreaker, 3 * second},
		{"a shared set", endpoint.Config{
			Limits: []endpoint.Limit{concurrent(5)}, Shared: []endpoint.Shared{&member{set: shared}},
			Ticket: func() uint64 { tickets++; return tickets },
		}, func(*bench, uint32) {}, endpoint.SharedLimits, 60 * second},
		{"the longest of all", limited(tpm, concurrent(1)), func(b *bench, h uint32) {
			b.Observe(b.now, b.View(h).Attempt, &endpoint.Observation{Outcome: endpoint.RateLimited, Delay: 90 * second})
		}, endpoint.Pause, 90 * second},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBench(t, Config{}, c.config)
			running := b.submit(big)
			c.hold(b, running)
			free := b.Forecast(&big) // nothing is ahead
			if _, _, waits := b.Head(0); !waits {
				b.submit(big)
			}
			h, head, waits := b.Head(0)
			require.True(t, waits)
			assert.Equal(t, c.cause, head.Cause)
			assert.Equal(t, c.at, head.At)
			assert.Equal(t, b.check(big.Estimate, true, line.Size{}, 0), head)
			if c.name != "a slot" { // there somebody waited already
				assert.Equal(t, free, head, "who came was told the same")
			}
			rank, of := b.ForecastOf(h)
			assert.Equal(t, 1, rank)
			assert.Equal(t, head, of)
			rank, of = b.ForecastLast(h)
			assert.Equal(t, 1, rank)
			assert.Equal(t, head, of)
			for other, forecast := range b.InLine() {
				rank, of = forecast()
				assert.Equal(t, h, other)
				assert.Equal(t, 1, rank)
				assert.Equal(t, head, of)
			}
			assert.Equal(t, c.cause == endpoint.Slot, head.Guessed)
			if head.At != endpoint.Never && !head.Guessed {
				assert.Equal(t, head.At, b.Next(), "somebody looks when it may start")
			}
		})
	}
}

// What stands in front counts in a forecast.
func TestForecastCountsWhatIsAhead(t *testing.T) {
	b := newBench(t, Config{}, limited(endpoint.Limit{Kind: endpoint.RPM, Amount: 1}))
	var all []uint32
	for range 4 {
		all = append(all, b.submit(Request{Sized: true}))
	}
	for i, h := range all[1:] {
		rank, w := b.ForecastOf(h)
		assert.Equal(t, i+1, rank)
		assert.Equal(t, int64(i+1)*60*second, w.At, "one a minute")
		assert.Equal(t, endpoint.WindowLimit, w.Cause)
	}
	assert.Equal(t, 4*60*second, b.Forecast(&Request{Sized: true}).At)
	assert.EqualValues(t, 3, b.Ahead(0))
	assert.Equal(t, 60*second, b.Forecast(&Request{Sized: true, Priority: 1}).At, "nobody is ahead of a higher priority")
	assert.Zero(t, b.Ahead(1))
	assert.Equal(t, 4*60*second, b.Forecast(&Request{Sized: true, Priority: -1}).At)
}

// While nobody knows how large requests are, each is taken for a sixteenth of the smallest
// limit, and for at least 1,000 tokens.
func TestUnknownSizesTakeAPartOfTheLimitUntilTheFirstTells(t *testing.T) {
	b := newBench(t, Config{}, limited(endpoint.Limit{Kind: endpoint.TPM, Amount: 32_000}, endpoint.Limit{Kind: endpoint.OTPM, Amount: 2500}, concurrent(10)))
	first, second := b.submit(Request{}), b.submit(Request{})
	assert.Equal(t, endpoint.Usage{Input: 2000, Output: 1000}, jobOf(b, first).Reserved)
	assert.Equal(t, Running, b.State(second))
	third := b.submit(Request{})
	assert.Equal(t, InLine, b.State(third), "2,500 output tokens hold two of 1,000")
	assert.Equal(t, endpoint.WindowLimit, b.Forecast(&Request{}).Cause)
	b.ends(first, Ending{Reported: true, Used: endpoint.Usage{Input: 30, Output: 10}})
	assert.Equal(t, Running, b.State(third))
	assert.Equal(t, endpoint.Usage{Input: 30, Output: 10}, jobOf(b, third).Reserved, "the mean")
	assert.Zero(t, b.count(NoUsage))
}

// Where nothing tells what it used, nothing more is reserved, and that is said once.
func TestUnknownSizesTakeNothingWhereNothingReports(t *testing.T) {
	b := newBench(t, Config{}, limited(endpoint.Limit{Kind: endpoint.TPM, Amount: 1000}, concurrent(10)))
	first, second := b.submit(Request{}), b.submit(Request{})
	assert.Equal(t, InLine, b.State(second))
	b.ends(first, Ending{})
	assert.Equal(t, 1, b.count(NoUsage))
	third := b.submit(Request{})
	assert.Equal(t, Running, b.State(second))
	assert.Equal(t, Running, b.State(third))
	b.ends(second, Ending{})
	b.ends(third, Ending{})
	assert.Zero(t, b.count(NoUsage))
}

func jobOf(b *bench, h uint32) (j Job) {
	b.Job(b.View(h).Attempt, &j)
	return j
}

// Of two endpoints the one with the fewest attempts for its slots goes first, and what one
// cannot take goes to the other.
func TestTheLeastLoadedEndpointGoesFirst(t *testing.T) {
	first := map[bool]int{} // how often a tie went to the large one
	for seed := range uint64(20) {
		b := newBench(t, Config{Seed: seed}, limited(concurrent(2)))
		large := b.add(limited(concurrent(4)))
		assert.EqualValues(t, 6, b.Slots())
		for i := range 6 {
			small, half := b.way.Running()*2, large.Running()
			at := b.View(b.submit(Request{Sized: true})).Endpoint
			switch {
			case small < half:
				assert.Equal(t, b.way, at)
			case small > half:
				assert.Equal(t, large, at)
			case i == 0:
				first[at == large]++
			}
		}
	}
	assert.Len(t, first, 2, "chance decides between equals")
	b := newBench(t, Config{}, limited(concurrent(2)))
	large := b.add(limited(concurrent(4)))
	var last uint32
	for range 6 {
		last = b.submit(Request{Sized: true})
	}
	for b.View(last).Endpoint != large {
		last--
	}
	h := b.submit(Request{Sized: true})
	assert.Equal(t, InLine, b.State(h))
	b.RemoveEndpoint(0, large)
	b.ends(last, Ending{})
	assert.Equal(t, InLine, b.State(h), "nothing starts on an endpoint that was removed")
	assert.EqualValues(t, 2, b.Slots())
}

// A retry that is due goes before a request that comes at that very instant.
func TestDueRetryGoesBeforeNewRequests(t *testing.T) {
	b := newBench(t, Config{RetryBudget: -1}, limited(concurrent(1)))
	first := b.submit(Request{Sized: true})
	b.ends(first, Ending{Verdict: PassingFault, Delay: 100})
	assert.Equal(t, BackingOff, b.State(first))
	assert.EqualValues(t, 100, b.RetryAt(first))
	assert.EqualValues(t, 100, b.Next())
	b.now = 100
	other := b.submit(Request{Sized: true})
	assert.Equal(t, Running, b.State(first))
	assert.Equal(t, InLine, b.State(other))
}

// Retries come back ahead of what was never started, in order of arrival.
func TestRetriesComeBackInOrderOfArrival(t *testing.T) {
	b := newBench(t, Config{RetryBudget: -1}, limited(concurrent(3)))
	first, second, third := b.submit(Request{Sized: true}), b.submit(Request{Sized: true}), b.submit(Request{Sized: true})
	fresh := b.submit(Request{Sized: true})
	b.Pause(0)
	for i, h := range []uint32{third, first, second} {
		b.now = int64(i)
		b.ends(h, Ending{Verdict: PassingFault})
	}
	b.Wake(10)
	var order []uint32
	for h := range b.InLine() {
		order = append(order, h)
	}
	assert.Equal(t, []uint32{first, second, third, fresh}, order)
}

// What limits that were lowered meanwhile never admit again fails when it comes back, and lets
// through what waits for it.
func TestWhatFitsNoMoreFailsWhenItComesBack(t *testing.T) {
	b := newBench(t, Config{}, limited(endpoint.Limit{Kind: endpoint.TPM, Amount: 100}, concurrent(1)))
	large := b.submit(Request{Sized: true, Estimate: endpoint.Usage{Input: 50}})
	small := b.submit(Request{Sized: true, Estimate: endpoint.Usage{Input: 5}})
	b.SetLimits(0, b.way, []endpoint.Limit{{Kind: endpoint.TPM, Amount: 40}, concurrent(1)})
	assert.Equal(t, Running, b.State(large), "what runs goes on")
	b.effects()
	b.now = 120 * second
	b.ends(large, Ending{Verdict: Refused, Marked: true, Delay: 1})
	b.Wake(b.Next())
	assert.Equal(t, Failed, b.State(large))
	assert.Equal(t, TooLarge, b.TooLarge(large).Code)
	assert.Equal(t, Running, b.State(small))
}

// The usage of a request is that of all its attempts.
func TestUsageIsThatOfAllAttempts(t *testing.T) {
	b := newBench(t, Config{RetryBudget: -1}, limited(concurrent(1)))
	h := b.submit(Request{Sized: true})
	b.ends(h, Ending{Verdict: PassingFault, Reported: true, Used: endpoint.Usage{Input: 10}})
	b.Wake(b.now)
	b.ends(h, Ending{Reported: true, Used: endpoint.Usage{Input: 7, Output: 1}})
	v := b.View(h)
	assert.Equal(t, Completed, v.State)
	assert.Equal(t, 2, v.Attempts)
	assert.Equal(t, endpoint.Usage{Input: 10}, v.Prior)
	assert.Equal(t, endpoint.Usage{Input: 17, Output: 1}, v.Usage)
	assert.Equal(t, v.Usage, b.Counts().Usage)
	require.True(t, b.UpdateUsage(0, h, endpoint.Usage{Input: 3}))
	assert.Equal(t, endpoint.Usage{Input: 13}, b.View(h).Usage, "the last attempt's is replaced")
	assert.Equal(t, endpoint.Usage{Input: 13}, b.Counts().Usage)
}

// What a call used counts once, for the first of those that share it, also when its attempt
// goes on after that and ends before the others do.
func TestUsageOfACallCountsOnce(t *testing.T) {
	b := newBench(t, Config{Timeout: 100, MaxAttempts: 1}, limited(concurrent(1)))
	h := b.submit(Request{Sized: true, Call: true})
	first := b.Join(0, h, &Request{Sized: true}, true)
	second := b.Join(0, h, &Request{Sized: true}, false)
	assert.Equal(t, 2, b.Counts().Processing)
	b.now = 100
	b.Wake(b.now)
	require.Equal(t, Failed, b.State(h))
	used := endpoint.Usage{Input: 9}
	b.FinishFollower(100, first, true, false, used)
	assert.Equal(t, used, b.View(first).Usage)
	b.ends(h, Ending{Reported: true, Used: used})
	b.FinishFollower(101, second, false, false, used)
	assert.Zero(t, b.View(second).Usage, "two requests have what one call used")
	assert.Equal(t, 1, b.View(second).Attempts)
	assert.False(t, b.UpdateUsage(102, second, used), "it has no usage of its own")
	gone, _ := b.Drop(h)
	assert.True(t, gone)
	assert.EqualValues(t, 2, b.Counts().Failed)
	assert.Zero(t, b.Counts().Processing)
}

// When the breakers open, what may go to another model goes; what stays waits for the probe.
func TestOpenBreakersLeaveWhatStays(t *testing.T) {
	opened := &breaker{now: new(int64), delay: 60 * second, failures: 2} // one more opens it
	b := newBench(t, Config{Fallback: true}, endpoint.Config{Limits: []endpoint.Limit{concurrent(1)}, Breaker: opened})
	running := b.submit(Request{Sized: true})
	stays := 0
	for i := range 5000 {
		r := Request{Sized: true, Stays: i%7 == 3}
		if b.submit(r); r.Stays {
			stays++
		}
	}
	b.effects()
	b.ends(running, Ending{Verdict: RequestFault, Ballot: endpoint.Failure})
	gone := 0
	for slices := 0; ; slices++ {
		require.Less(t, slices, 30, "it never ends")
		for _, e := range b.effects() {
			switch e.Kind {
			case Handoff:
				gone++
			case End:
				assert.Equal(t, running, e.Handle, "a request that stays was ended: code %d", e.Code)
			}
		}
		if !b.Sweeping() {
			break
		}
		b.Sweep(b.now)
		assert.LessOrEqual(t, b.Counts().Forwarded-gone, 1024, "the lock was held for all of them")
	}
	assert.Equal(t, 5000-stays, gone)
	assert.Equal(t, stays, b.Waiting())
}
