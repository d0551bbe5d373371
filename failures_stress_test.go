package llmqueue_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/llmqueue/llmqueue"
)

// nonsense is what no error says.
var nonsense = regexp.MustCompile(`<nil>|%!|\b1ns\b|[ (]-\d|0001-01-01|\b2262-|llmqueue: llmqueue`)

// stays counts how often a request came to a model and ended there.
type stays struct{ queued, ended int }

// stressOnce is one run of TestFailuresUnderStress.
func stressOnce(t *testing.T, seed uint64) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		said := map[string]bool{}
		say := func(format string, args ...any) {
			s := fmt.Sprintf(format, args...)
			mu.Lock()
			defer mu.Unlock()
			if len(said) < 10 && !said[s] {
				said[s] = true
				t.Errorf("seed %d: %s", seed, s)
			}
		}
		all := map[string]*stays{}
		note := func(e llmqueue.Event) {
			if e.Err != nil && nonsense.MatchString(e.Err.Error()) {
				say("event %s: %s", e.Type, e.Err)
			}
			if e.Type == llmqueue.EventRetried && e.Err == nil {
				say("retried without an error")
			}
			if e.Waited < 0 || e.Took < 0 {
				say("event %s: waited %v took %v", e.Type, e.Waited, e.Took)
			}
			if e.RequestID == "" {
				return
			}
			mu.Lock()
			key := e.ModelID + "/" + e.RequestID
			o := all[key]
			if o == nil {
				o = new(stays)
				all[key] = o
			}
			bad := ""
			switch e.Type {
			case llmqueue.EventQueued:
				o.queued++
			case llmqueue.EventStarted:
				if o.ended >= o.queued {
					bad = "started after its end"
				}
				if e.Endpoint == "" {
					bad = "started nowhere"
				}
			case llmqueue.EventCompleted, llmqueue.EventFailed, llmqueue.EventCanceled:
				o.ended++
			}
			mu.Unlock()
			if bad != "" {
				say("%s", bad)
			}
		}
		var provider atomic.Int64
		rnd := func(i uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, i)) }
		var calls atomic.Uint64
		process := func(ctx context.Context, r req) (int, error) {
			x := rnd(1000 + calls.Add(1))
			nap := func(d time.Duration, deaf bool) {
				if deaf {
					time.Sleep(d)
					return
				}
				select {
				case <-time.After(d):
				case <-ctx.Done():
				}
			}
			n := x.Int64N(10) + 1
			llmqueue.ReportUsage(ctx, llmqueue.Usage{InputTokens: n})
			provider.Add(n)
			llmqueue.Observe(ctx, llmqueue.Observation{Output: x.IntN(2) == 0})
			nap(time.Duration(x.Int64N(int64(8*time.Second))), x.IntN(4) == 0)
			if ctx.Err() != nil && x.IntN(2) == 0 {
				return 0, ctx.Err()
			}
			switch x.IntN(14) {
			case 0:
				return 0, llmqueue.Retryable(errors.New("boom"))
			case 1:
				return 0, llmqueue.Elsewhere(errors.New("key"))
			case 2:
				return 0, llmqueue.RateLimited(errors.New("slow"), time.Duration(x.Int64N(int64(20*time.Second))))
			case 3:
				return 0, errors.New("mine")
			case 4:
				panic("ouch")
			case 5:
				llmqueue.Streamed(ctx)
				nap(time.Duration(x.Int64N(int64(8*time.Second))), false)
			case 6:
				llmqueue.Observe(ctx, llmqueue.Observation{Outcome: llmqueue.OutcomeRateLimited, Delay: time.Duration(x.Int64N(int64(100 * time.Second)))})
				return 0, errors.New("seen")
			case 7:
				at := time.Now()
				llmqueue.Observe(ctx, llmqueue.Observation{SentAt: at, Outcome: llmqueue.OutcomeServed})
				nap(time.Second, false)
				llmqueue.Observe(ctx, llmqueue.Observation{SentAt: at, Outcome: llmqueue.OutcomeRetryable})
				return 0, nil
			}
			return r.Params, nil
		}
		m := llmqueue.NewManager[int, int](llmqueue.WithObserver(note), llmqueue.WithTimeout(5*time.Second), llmqueue.WithFirstByteTimeout(4*time.Second), llmqueue.WithStallTimeout(3*time.Second),
			llmqueue.WithHedge(llmqueue.HedgePolicy{After: time.Second, Share: 1}), llmqueue.WithRetry(llmqueue.RetryPolicy{MaxAttempts: 3, MaxDelay: 10 * time.Second}),
			llmqueue.WithShutdownGrace(20*time.Second), llmqueue.WithMaxPause(time.Minute))
		x := rnd(0)
		key := llmqueue.WithCoalescing(func(r req) string {
			if r.Params%3 == 0 {
				return ""
			}
			return strconv.Itoa(r.Params)
		})
		opts := func(fallback ...string) (o []llmqueue.Option) {
			if len(fallback) > 0 {
				o = append(o, llmqueue.WithFallback(fallback...))
			}
			if x.IntN(2) == 0 {
				o = append(o, key)
			}
			if x.IntN(3) == 0 {
				o = append(o, llmqueue.WithWaitForQuota())
			}
			if x.IntN(3) == 0 {
				o = append(o, llmqueue.WithHistory(3, time.Minute))
			} else if x.IntN(3) == 0 {
				o = append(o, llmqueue.WithHistory(0, time.Minute))
			}
			return append(o, llmqueue.WithLimits(llmqueue.Concurrent(int64(1+x.IntN(6))), llmqueue.RPM(int64(20+x.IntN(100)))))
		}
		qs := map[string]*llmqueue.Queue[int, int]{}
		for _, model := range []string{"a", "b", "c"} {
			var fb []string
			switch model {
			case "a":
				fb = []string{"b", "c"}
			case "b":
				fb = []string{"c"}
			}
			q, err := m.Register(model, process, opts(fb...)...)
			require.NoError(t, err)
			qs[model] = q
		}
		require.NoError(t, qs["a"].AddEndpoint("eu", process, llmqueue.WithLimits(llmqueue.Concurrent(2))))
		models := []string{"a", "a", "a", "b", "c"}
		var wg sync.WaitGroup
		check := func(err error) {
			if err != nil && nonsense.MatchString(err.Error()) {
				say("%s", err)
			}
			if err != nil && strings.Count(err.Error(), "\n") > 0 {
				say("lines: %s", err)
			}
		}
		for i := range 12 {
			wg.Go(func() {
				x := rnd(uint64(1 + i))
				for j := range 25 {
					time.Sleep(time.Duration(x.Int64N(int64(4 * time.Second))))
					model := models[x.IntN(len(models))]
					q := qs[model]
					ctx, cancel := context.WithCancel(context.Background())
					if x.IntN(3) == 0 {
						cancel()
						ctx, cancel = context.WithTimeout(context.Background(), time.Duration(x.Int64N(int64(30*time.Second))))
					}
					r := req{Params: x.IntN(6), ModelID: model, Priority: x.IntN(2), Estimate: llmqueue.Usage{InputTokens: 5}}
					if x.IntN(3) == 0 {
						r.MaxWait = time.Duration(x.Int64N(int64(20*time.Second))) + 1
					}
					if x.IntN(4) == 0 {
						r.ID = fmt.Sprint("r", i, "-", j)
					}
					switch x.IntN(12) {
					default:
						resp, err := q.Submit(ctx, r)
						check(err)
						if resp.RequestID != "" {
							if err == nil && resp.Result != r.Params && resp.Result != 0 {
								say("result of another: %d for %d", resp.Result, r.Params)
							}
						}
					case 0, 1, 2:
						r.NoWait = true
						resp, err := q.Submit(ctx, r)
						check(err)
						if err == nil {
							time.Sleep(time.Duration(x.Int64N(int64(6 * time.Second))))
							switch x.IntN(4) {
							case 0:
								_ = q.Cancel(resp.RequestID)
							case 1:
								if seed%2 == 1 {
									break
								}
								_ = q.UpdateUsage(resp.RequestID, llmqueue.Usage{InputTokens: 4})
							case 2:
								_, _ = q.Reclaim(resp.RequestID, errors.New("x"))
							}
							resp, err = q.Wait(context.Background(), resp.RequestID)
							check(err)
						}
					case 3:
						p, err := q.Acquire(ctx, llmqueue.Claim{ModelID: model, MaxWait: r.MaxWait})
						check(err)
						for err == nil {
							time.Sleep(time.Duration(x.Int64N(int64(8 * time.Second))))
							switch x.IntN(4) {
							case 0:
								err = p.Done(nil)
								check(err)
								err = errors.New("over")
							case 1:
								<-p.Context().Done()
								err = p.Done(p.Context().Err())
							case 2:
								err = p.Done(llmqueue.Retryable(errors.New("p")))
							case 3:
								cancel() // never Done
								err = ctx.Err()
							}
							if err == llmqueue.ErrTryAgain {
								err = p.Again(ctx)
							}
							check(err)
						}
					case 4:
						check(q.Call(ctx, llmqueue.Claim{ModelID: model}, func(ctx context.Context) error {
							_, err := process(ctx, r)
							return err
						}))
					case 5:
						switch x.IntN(6) {
						case 0:
							q.Pause()
							time.Sleep(3 * time.Second)
							q.Resume()
						case 1:
							q.Resume()
						case 2:
							_ = q.SetLimits(llmqueue.Concurrent(int64(1+x.IntN(6))), llmqueue.RPM(int64(20+x.IntN(100))))
						case 3:
							if model == "a" {
								name := fmt.Sprint("e", i, j)
								_ = q.AddEndpoint(name, process, llmqueue.WithLimits(llmqueue.Concurrent(1)))
								time.Sleep(5 * time.Second)
								_ = q.RemoveEndpoint(context.Background(), name)
							}
						default:
							info := q.Info()
							if info.Accepted != int64(info.Pending)+int64(info.Processing)+int64(info.Forwarded)+info.Completed+info.Failed+info.Canceled {
								say("does not add up: %+v", info)
							}
							if info.Abandoned < 0 {
								say("abandoned %d", info.Abandoned)
							}
							seen := map[string]bool{}
							for _, r := range q.Requests(llmqueue.RequestFilter{Limit: 1000}) {
								if seen[r.ID] && r.FinishedAt.IsZero() {
									say("listed twice: %+v", r)
								}
								seen[r.ID] = seen[r.ID] || r.FinishedAt.IsZero()
								if nonsense.MatchString(r.Error) {
									say("listed: %s", r.Error)
								}
							}
						}
					}
					cancel()
				}
			})
		}
		wg.Wait()
		early := x.IntN(2) == 0
		if !early {
			time.Sleep(2 * time.Hour)
		}
		for _, q := range qs {
			info := q.Info()
			if !early && (info.Pending+info.Processing+info.Forwarded > 0 || info.Abandoned > 0) {
				say("left: %+v", info)
			}
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		err := m.Shutdown(ctx)
		_ = err
		synctest.Wait()
		time.Sleep(time.Minute)
		infoUse := int64(0)
		for _, q := range qs {
			info := q.Info()
			infoUse += info.Usage.Total()
			if info.Pending+info.Processing+info.Forwarded > 0 || info.Abandoned > 0 || info.Endpoints[0].Processing > 0 {
				say("left after shutdown: %+v", info)
			}
		}
		if seed%2 == 1 && infoUse != provider.Load() {
			say("usage: provider %d info %d", provider.Load(), infoUse)
		}
		mu.Lock()
		defer mu.Unlock()
		for key, o := range all {
			if o.queued != o.ended {
				t.Errorf("seed %d: %s queued %d ended %d", seed, key, o.queued, o.ended)
			}
		}
	})
}

// Many who submit, cancel, wait, acquire and call, while attempts fail in all ways, run late and
// are hedged: every request ends as often as it came, all usage is counted, no error is
// nonsense and, under the race detector, there is no race.
func TestFailuresUnderStress(t *testing.T) {
	for seed := uint64(0); seed < 12 && !t.Failed(); seed++ {
		stressOnce(t, seed)
	}
}
