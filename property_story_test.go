package llmqueue

import (
	"cmp"
	"context"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Random stories of a queue for the property test, and how a queue plays them.

// story is what happens to one queue: requests with their fate, and interventions.
// Instants are random nanoseconds, so that no two of them coincide.
type story struct {
	seed     uint64
	limits   []Limit
	margin   time.Duration // negative: the default
	attempts int           // WithRetry's
	requests []*told
	steps    []step // in order of time
}

type told struct {
	at       time.Duration
	priority int
	tenant   string
	estimate Usage
	maxWait  time.Duration
	waited   bool // by a Submit, otherwise NoWait
	fates    []fate
}

// fate is what becomes of one attempt.
type fate struct {
	lasts   time.Duration
	reports bool
	used    Usage
	ends    string // ok, fail, panic, goexit, retry, limited
	after   time.Duration
	heeds   bool // returns when its context ends
}

type step struct {
	at     time.Duration
	what   string // submit, cancel, leave, update, limits, pause, resume, check
	i      int    // the request
	usage  Usage
	limits []Limit
}

func tell(seed uint64) *story {
	r := rand.New(rand.NewPCG(seed, 1))
	oneIn := func(n int) bool { return r.IntN(n) == 0 }
	upTo := func(d time.Duration) time.Duration { return time.Duration(r.Int64N(int64(d))) + 1 }
	usage := func(most int64) Usage {
		return Usage{InputTokens: 1 + r.Int64N(most), OutputTokens: r.Int64N(most)}
	}
	periods := []time.Duration{3 * time.Second, 10 * time.Second, time.Minute, 2 * time.Hour}
	limits := func() []Limit {
		out := []Limit{TPD(1 << 40)} // never binds: it remembers every charge
		for _, l := range []Limit{RPM(1 + r.Int64N(8)), RPM(1 + r.Int64N(20)), TPM(20 + r.Int64N(100)), TPM(50 + r.Int64N(300)), ITPM(10 + r.Int64N(60)), OTPM(10 + r.Int64N(60))} {
			if oneIn(2) {
				l = l.Per(periods[r.IntN(len(periods))])
				if !slices.ContainsFunc(out, func(o Limit) bool { return o.Kind == l.Kind && o.period() == l.period() }) {
					out = append(out, l)
				}
			}
		}
		if !oneIn(3) {
			out = append(out, Concurrent(1+r.Int64N(6)))
		}
		return out
	}
	s := &story{seed: seed, limits: limits(), margin: -1, attempts: 1 + r.IntN(4)}
	if oneIn(2) {
		s.margin = upTo(time.Second) - 1
	}
	span := time.Duration(1+r.IntN(100)) * time.Second
	unknown := []int{1, 3, 1000, 1000}[r.IntN(4)] // one in so many requests does not know its size
	tenants, priorities := 1+r.IntN(4), 1+r.IntN(3)
	for i := range 5 + r.IntN(80) {
		q := &told{
			at: upTo(span), priority: r.IntN(priorities), tenant: []string{"", "a", "b", "c"}[r.IntN(tenants)],
			estimate: usage(14), waited: oneIn(3),
		}
		if oneIn(unknown) {
			q.estimate = Usage{}
		}
		if oneIn(6) {
			q.maxWait = upTo(time.Minute)
		}
		for range s.attempts {
			f := fate{lasts: upTo(4 * time.Second), reports: !oneIn(4), used: usage(10), ends: "ok", heeds: !oneIn(3)}
			if oneIn(4) {
				f.used = usage(40) // an overrun
			}
			if oneIn(5) {
				f.lasts = upTo(40 * time.Second) // longer than most windows
			}
			if oneIn(4) {
				f.ends = []string{"fail", "panic", "goexit", "retry", "retry", "limited"}[r.IntN(6)]
				f.after = upTo(5 * time.Second)
			}
			q.fates = append(q.fates, f)
		}
		s.requests = append(s.requests, q)
		s.steps = append(s.steps, step{at: q.at, what: "submit", i: i})
		if oneIn(8) {
			s.steps = append(s.steps, step{at: q.at + upTo(20*time.Second), what: "cancel", i: i})
		}
		if q.waited && oneIn(4) {
			s.steps = append(s.steps, step{at: q.at + upTo(20*time.Second), what: "leave", i: i})
		}
		if oneIn(6) {
			s.steps = append(s.steps, step{at: q.at + upTo(40*time.Second), what: "update", i: i, usage: usage(30)})
		}
	}
	for range r.IntN(4) {
		s.steps = append(s.steps, step{at: upTo(span + 30*time.Second), what: "limits", limits: limits()})
	}
	if oneIn(4) {
		at := upTo(span)
		s.steps = append(s.steps, step{at: at, what: "pause"}, step{at: at + upTo(20*time.Second), what: "resume"})
	}
	for range 10 {
		s.steps = append(s.steps, step{at: upTo(2 * span), what: "check"})
	}
	slices.SortFunc(s.steps, func(a, b step) int { return cmp.Compare(a.at, b.at) })
	return s
}

// happened is one start or end.
type happened struct {
	at      time.Duration
	id      string
	what    EventType
	attempt int
}

func (h happened) String() string {
	return fmt.Sprintf("%v %s %s %d", h.at, h.id, h.what, h.attempt)
}

// seen is all that an onlooker saw of a story.
type seen struct {
	starts, ends []happened
	retryAt      map[string]time.Duration // by id and attempt
	refused      map[string]bool
	checks       []looked
	info         QueueInfo
}

type looked struct {
	at                  time.Duration
	used                []int64
	pending, processing int
	abandoned           int
}

func attemptKeyOf(id string, n int) string { return id + "#" + strconv.Itoa(n) }

func (s *story) play(t *testing.T) *seen {
	out := &seen{retryAt: map[string]time.Duration{}, refused: map[string]bool{}}
	begin := time.Now()
	left := make([]context.CancelFunc, len(s.requests))
	tries := make([]int, len(s.requests))
	process := func(ctx context.Context, r Request[int]) (int, error) {
		// The queue runs no two attempts of a request at a time.
		n := tries[r.Params]
		tries[r.Params]++
		f := s.requests[r.Params].fates[n]
		if f.heeds {
			select {
			case <-time.After(f.lasts):
			case <-ctx.Done():
			}
		} else {
			time.Sleep(f.lasts)
		}
		if f.reports {
			ReportUsage(ctx, Usage{InputTokens: 1 << 30})
			ReportUsage(ctx, f.used) // the last one counts
		}
		return r.Params, f.outcome()
	}
	q, err := NewQueue("m", process,
		WithLimits(s.limits...), WithMargin(s.margin), WithRetry(RetryPolicy{MaxAttempts: s.attempts, BaseDelay: 2 * time.Second, Budget: -1}), WithoutDeadlineCheck(),
		WithObserver(func(e Event) {
			h := happened{e.Time.Sub(begin), e.RequestID, e.Type, e.Attempt}
			switch e.Type {
			case EventStarted:
				out.starts = append(out.starts, h)
			case EventCompleted, EventFailed, EventCanceled:
				out.ends = append(out.ends, h)
			case EventRetried:
				out.retryAt[attemptKeyOf(e.RequestID, e.Attempt)] = e.Until.Sub(begin)
			}
		}))
	require.NoError(t, err)
	for _, st := range s.steps {
		time.Sleep(st.at - time.Since(begin))
		id := "r" + strconv.Itoa(st.i)
		switch st.what {
		case "submit":
			d := s.requests[st.i]
			req := Request[int]{
				ID: id, Params: st.i, Priority: d.priority, Tenant: d.tenant, Estimate: d.estimate, MaxWait: d.maxWait, NoWait: !d.waited,
			}
			ctx, cancel := context.WithCancel(context.Background())
			left[st.i] = cancel
			submit := func() {
				resp, err := q.Submit(ctx, req)
				if resp.RequestID == "" {
					assert.ErrorIs(t, err, ErrRequestTooLarge)
					out.refused[id] = true
				}
			}
			if d.waited {
				go submit()
			} else {
				submit()
			}
		case "cancel":
			_ = q.Cancel(id)
		case "leave":
			left[st.i]()
		case "update":
			_ = q.UpdateUsage(id, st.usage)
		case "limits":
			require.NoError(t, q.SetLimits(st.limits...))
		case "pause":
			q.Pause()
		case "resume":
			q.Resume()
		case "check":
			i := addsUp(t, q)
			l := looked{at: st.at, pending: i.Pending, processing: i.Processing, abandoned: i.Abandoned}
			for _, x := range i.Limits {
				l.used = append(l.used, x.Used)
			}
			out.checks = append(out.checks, l)
		}
		synctest.Wait()
	}
	require.NoError(t, q.Shutdown(context.Background()))
	synctest.Wait()
	for _, cancel := range left {
		if cancel != nil {
			cancel()
		}
	}
	out.info = addsUp(t, q)
	require.Zero(t, out.info.Dropped)
	return out
}

func (f fate) outcome() error {
	switch f.ends {
	case "fail":
		return errBoom
	case "panic":
		panic(Retryable(errBoom)) // a mark means nothing in a panic
	case "goexit":
		runtime.Goexit()
	case "retry":
		return Retryable(errBoom)
	case "limited":
		return RateLimited(errBoom, f.after)
	}
	return nil
}
