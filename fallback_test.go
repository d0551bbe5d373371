package llmqueue

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

var errDown = errors.New("down")

// down is a processor of a model that fails after a second, in a way that may pass.
func down(ctx context.Context, r Request[int]) (string, error) {
	nap(ctx, time.Second)
	ReportUsage(ctx, in(1))
	return "", Retryable(fmt.Errorf("%s %w", r.ModelID, errDown))
}

// answering is a processor that answers after two seconds with the model's name.
func answering(ctx context.Context, r Request[int]) (string, error) {
	nap(ctx, 2*time.Second)
	ReportUsage(ctx, in(10))
	return r.ModelID, ctx.Err()
}

// served is a model to register.
type served struct {
	name    string
	process Processor[int, string]
	opts    []Option
}

func managerOf(t *testing.T, models ...served) *Manager[int, string] {
	t.Helper()
	m := NewManager[int, string](WithUnlimited(), WithRetry(RetryPolicy{MaxAttempts: 2, BaseDelay: time.Millisecond, MaxDelay: time.Millisecond, Budget: -1}))
	for _, c := range models {
		_, err := m.Register(c.name, c.process, c.opts...)
		require.NoError(t, err)
	}
	_, err := m.Register("missing", answering) // was there once
	require.NoError(t, err)
	require.NoError(t, m.Unregister(t.Context(), "missing"))
	t.Cleanup(func() { require.NoError(t, m.Shutdown(context.Background())) })
	return m
}

func opening() Option {
	return WithBreaker(func(string) Breaker { return &scripted{limit: 1} })
}

func quotaGone(ctx context.Context, _ Request[int]) (string, error) {
	Observe(ctx, Observation{Outcome: OutcomeQuotaExhausted, Delay: time.Hour})
	return "", errors.New("quota")
}

// Why a model cannot serve a request, and what the caller sees of the one that does.
func TestFallbackServes(t *testing.T) {
	for _, c := range []struct {
		name     string
		process  Processor[int, string]
		opts     []Option
		ask      Request[int]
		attempts int
		usage    int64
		took     time.Duration
	}{
		{"retries used up", down, nil, Request[int]{}, 3, 12, 4 * time.Second},
		{"its quota is exhausted", quotaGone, nil, Request[int]{}, 2, 10, 2 * time.Second},
		{"its breaker is open", down, []Option{opening()}, Request[int]{}, 2, 11, 3 * time.Second},
		{"it could start only after MaxWait", answering, []Option{WithLimits(RPM(1))}, Request[int]{MaxWait: time.Second}, 1, 10, 2 * time.Second},
	} {
		for _, noWait := range []bool{false, true} {
			t.Run(fmt.Sprint(c.name, " NoWait ", noWait), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					var mu sync.Mutex
					events := map[string][]string{} // by model: each has its own observer
					note := WithObserver(func(e Event) {
						mu.Lock()
						defer mu.Unlock()
						if e.RequestID == "mine" && (e.Type == EventFallback || e.Type == EventCompleted) {
							events[e.ModelID] = append(events[e.ModelID], fmt.Sprint(e.Type, " ", e.Fallback, " ", e.Usage.Total()))
						}
					})
					m := managerOf(t,
						served{"a", c.process, append(c.opts, WithFallback("missing", "b"), note)},
						served{"b", answering, []Option{note}})
					if c.ask.MaxWait > 0 {
						_, err := m.Submit(t.Context(), Request[int]{ModelID: "a"})
						require.NoError(t, err)
					}
					req := c.ask
					req.ID, req.ModelID, req.NoWait, req.Metadata = "mine", "a", noWait, map[string]string{"k": "v"}
					begin := time.Now()
					r, err := m.Submit(t.Context(), req)
					require.NoError(t, err)
					if noWait {
						assert.Equal(t, StatusPending, r.Status)
						r, err = m.Wait(t.Context(), "a", "mine")
						require.NoError(t, err)
					}
					assert.Equal(t, c.took, time.Since(begin).Truncate(10*time.Millisecond))
					assert.Equal(t, "b", r.Result)
					assert.Equal(t, "b", r.ModelID, "which model answered")
					assert.Equal(t, "mine", r.RequestID)
					assert.Equal(t, map[string]string{"k": "v"}, r.Metadata)
					assert.Equal(t, c.attempts, r.Attempts, "those of both models")
					assert.Equal(t, c.usage, r.Usage.Total(), "that of both models")
					assert.Equal(t, 2*time.Second, r.ProcessingTime())
					synctest.Wait()
					mu.Lock()
					defer mu.Unlock()
					assert.Equal(t, map[string][]string{
						"a": {"fallback missing 0", "fallback b 0", fmt.Sprint("completed b ", c.usage-10)}, // its own, so that a sum over events counts it once
						"b": {"completed  10"},
					}, events)
					a, _ := m.Queue("a")
					i := addsUp(t, a)
					assert.EqualValues(t, 2, i.Fallbacks)
					assert.Zero(t, i.Forwarded)
					resp := status(t, a, "mine")
					assert.Equal(t, StatusCompleted, resp.Status)
					assert.Equal(t, map[bool]string{true: "b"}[noWait], resp.Result, "kept for who did not wait")
				})
			})
		}
	}
}

// While a breaker is open, what waits goes to the fallback and what comes goes there at
// once; the probe comes back.
func TestFallbackWhileABreakerIsOpen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		healthy := time.Now().Add(30 * time.Second)
		m := managerOf(t, served{"a", func(ctx context.Context, r Request[int]) (string, error) {
			if time.Now().Before(healthy) {
				return down(ctx, r)
			}
			return answering(ctx, r)
		}, []Option{WithLimits(Concurrent(1)), opening(), WithFallback("b")}},
			served{"b", answering, nil})
		a, _ := m.Queue("a")
		var ids []string
		for range 10 {
			ids = append(ids, post(t, a, Request[int]{}))
		}
		for _, id := range ids {
			r, err := a.Wait(t.Context(), id)
			require.NoError(t, err)
			assert.Equal(t, "b", r.Result)
		}
		r, err := a.Submit(t.Context(), Request[int]{})
		require.NoError(t, err)
		assert.Equal(t, "b", r.ModelID)
		time.Sleep(time.Minute)
		r, err = a.Submit(t.Context(), Request[int]{})
		require.NoError(t, err)
		assert.Equal(t, "a", r.ModelID, "it serves again")
		addsUp(t, a)
	})
}

func TestWhatStaysWithItsModel(t *testing.T) {
	for name, process := range map[string]Processor[int, string]{
		"an unmarked error": func(context.Context, Request[int]) (string, error) { return "", errBoom },
		"permanent":         func(context.Context, Request[int]) (string, error) { return "", Permanent(errBoom) },
		"a panic":           func(context.Context, Request[int]) (string, error) { panic(errBoom) },
		"streamed output": func(ctx context.Context, _ Request[int]) (string, error) {
			Streamed(ctx)
			return "", Retryable(errBoom)
		},
	} {
		t.Run(name, func(t *testing.T) {
			m := managerOf(t, served{"a", process, []Option{WithFallback("b")}}, served{"b", answering, nil})
			r, err := m.Submit(t.Context(), Request[int]{ModelID: "a"})
			require.ErrorIs(t, err, errBoom)
			assert.Equal(t, "a", r.ModelID)
			b, _ := m.Info("b")
			assert.Zero(t, b.Accepted)
		})
	}
	t.Run("a quota that is waited for", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			m := managerOf(t, served{"a", quotaGone, []Option{WithFallback("b"), WithWaitForQuota()}}, served{"b", answering, nil})
			a, _ := m.Queue("a")
			post(t, a, Request[int]{})
			time.Sleep(time.Minute)
			assert.Equal(t, 1, a.Len())
			a.Pause()
		})
	})
}

// When no model serves, the error wraps the first reason and the last.
func TestFallbacksThatFail(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lost := errors.New("lost")
		var order []string
		process := func(err error) Processor[int, string] {
			return func(_ context.Context, r Request[int]) (string, error) {
				order = append(order, r.ModelID)
				return "", Retryable(err)
			}
		}
		m := managerOf(t,
			served{"a", process(errDown), []Option{WithFallback("b", "c", "d")}},
			served{"b", process(errBoom), []Option{WithFallback("c")}}, // its own comes before the next
			served{"c", process(errBoom), nil},
			served{"d", process(lost), nil})
		r, err := m.Submit(t.Context(), Request[int]{ModelID: "a", ID: "x"})
		require.ErrorIs(t, err, errDown)
		require.ErrorIs(t, err, lost)
		assert.NotContains(t, err.Error(), "\n")
		assert.Equal(t, []string{"a", "a", "b", "b", "c", "c", "d", "d"}, order, "no model is asked twice")
		assert.Equal(t, 8, r.Attempts)
		assert.Equal(t, "d", r.ModelID)
		assert.Equal(t, StatusFailed, r.Status)
		for _, id := range m.Models() {
			q, _ := m.Queue(id)
			assert.EqualValues(t, 1, addsUp(t, q).Failed, id)
		}
	})
	t.Run("refused everywhere", func(t *testing.T) {
		m := managerOf(t,
			served{"a", down, []Option{WithFallback("b", "missing")}},
			served{"b", answering, []Option{WithLimits(TPM(5))}})
		r, err := m.Submit(t.Context(), Request[int]{ModelID: "a", Estimate: in(100)})
		require.ErrorIs(t, err, errDown)
		require.ErrorIs(t, err, ErrModelNotRegistered)
		assert.Equal(t, "a", r.ModelID)
		assert.Equal(t, 2, r.Attempts)
	})
	t.Run("the fallback fails the request itself", func(t *testing.T) {
		m := managerOf(t,
			served{"a", down, []Option{WithFallback("b", "c")}},
			served{"b", func(context.Context, Request[int]) (string, error) { return "", Permanent(errBoom) }, nil},
			served{"c", answering, nil})
		r, err := m.Submit(t.Context(), Request[int]{ModelID: "a"})
		require.ErrorIs(t, err, errBoom)
		assert.Equal(t, "b", r.ModelID)
	})
}

// Wherever a request is, its own queue finds it, cancels it and shuts down around it.
func TestARequestAtAFallback(t *testing.T) {
	setup := func(t *testing.T, more ...Option) (*Manager[int, string], *Queue[int, string], *Queue[int, string]) {
		m := managerOf(t,
			served{"a", down, append([]Option{WithFallback("b")}, more...)},
			served{"b", func(ctx context.Context, r Request[int]) (string, error) {
				nap(ctx, time.Hour)
				return "b", ctx.Err()
			}, []Option{WithLimits(Concurrent(1))}})
		a, _ := m.Queue("a")
		b, _ := m.Queue("b")
		return m, a, b
	}
	t.Run("status", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			m, a, b := setup(t)
			first, second := post(t, a, Request[int]{}), post(t, a, Request[int]{})
			time.Sleep(10 * time.Second)
			ids := []Response[string]{status(t, a, first), status(t, a, second)}
			slices.SortFunc(ids, func(x, y Response[string]) int { return x.Position - y.Position })
			assert.Equal(t, StatusProcessing, ids[0].Status)
			assert.Equal(t, StatusPending, ids[1].Status)
			assert.Equal(t, 1, ids[1].Position)
			assert.Equal(t, "concurrent", ids[1].WaitsFor)
			assert.Equal(t, "b", ids[1].ModelID)
			i := addsUp(t, a)
			assert.Equal(t, 2, i.Forwarded)
			infos := a.Requests(RequestFilter{})
			assert.Equal(t, "b", infos[0].ModelID)
			require.ErrorIs(t, a.UpdateUsage(first, in(3)), ErrRequestNotFound)
			_, err := b.Status(first)
			require.NoError(t, err, "it has its id there too")
			require.NoError(t, m.Cancel("a", first))
			require.NoError(t, m.Cancel("a", second))
		})
	})
	t.Run("cancel", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			m, a, b := setup(t)
			id := post(t, a, Request[int]{})
			time.Sleep(10 * time.Second)
			require.NoError(t, m.Cancel("a", id))
			synctest.Wait()
			assert.Equal(t, StatusCanceled, status(t, a, id).Status)
			assert.EqualValues(t, 1, addsUp(t, b).Canceled, "nobody waits for it")
			assert.Zero(t, b.Info().Abandoned)
			addsUp(t, a)
		})
	})
	t.Run("the caller leaves", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			_, a, b := setup(t, WithoutDeadlineCheck())
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			r, err := a.Submit(ctx, Request[int]{})
			require.ErrorIs(t, err, ErrCanceled)
			assert.Equal(t, StatusCanceled, r.Status)
			synctest.Wait()
			assert.EqualValues(t, 1, addsUp(t, b).Canceled)
		})
	})
	t.Run("it is canceled there", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			m, a, _ := setup(t)
			id := post(t, a, Request[int]{})
			time.Sleep(10 * time.Second)
			require.NoError(t, m.Cancel("b", id))
			r, err := a.Wait(t.Context(), id)
			require.ErrorIs(t, err, ErrCanceled)
			assert.Equal(t, StatusCanceled, r.Status)
		})
	})
	t.Run("shutdown waits", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			_, a, _ := setup(t)
			id := post(t, a, Request[int]{})
			time.Sleep(10 * time.Second)
			require.NoError(t, a.Shutdown(t.Context()))
			assert.Equal(t, "b", status(t, a, id).Result)
		})
	})
	t.Run("shutdown runs out of time", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			_, a, b := setup(t)
			id := post(t, a, Request[int]{})
			time.Sleep(10 * time.Second)
			require.ErrorIs(t, a.Shutdown(ended()), context.Canceled)
			assert.ErrorIs(t, status(t, a, id).Err, ErrQueueClosed)
			synctest.Wait()
			assert.EqualValues(t, 1, addsUp(t, b).Canceled)
			addsUp(t, a)
		})
	})
	t.Run("its id is taken there", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			m, a, b := setup(t)
			post(t, b, Request[int]{ID: "x"})
			id := post(t, a, Request[int]{ID: "x"})
			time.Sleep(10 * time.Second)
			assert.Equal(t, 2, int(b.Info().Accepted))
			require.NoError(t, m.Cancel("b", "x"))
			r, err := a.Wait(t.Context(), id)
			require.NoError(t, err)
			assert.Equal(t, "b", r.Result)
		})
	})
}

// A wait that was used up elsewhere is not given again.
func TestMaxWaitGoesAlong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := managerOf(t,
			served{"a", down, []Option{WithLimits(Concurrent(1)), WithFallback("b"), opening()}}, // opens after a second
			served{"b", answering, []Option{WithLimits(Concurrent(1))}})
		a, _ := m.Queue("a")
		b, _ := m.Queue("b")
		for range 20 {
			post(t, b, Request[int]{})
		}
		_, err := m.Register("z", down, WithUnlimited())
		require.NoError(t, err)
		running := post(t, a, Request[int]{})
		id := post(t, a, Request[int]{MaxWait: 10 * time.Second})
		r, err := a.Wait(t.Context(), id)
		require.ErrorIs(t, err, ErrQueueTimeout)
		assert.Equal(t, 10*time.Second, r.FinishedAt.Sub(r.CreatedAt))
		_, err = a.Wait(t.Context(), running)
		require.NoError(t, err)
	})
}

func TestFallbackConfiguration(t *testing.T) {
	_, err := NewQueue("a", echo, WithUnlimited(), WithFallback("b"))
	require.ErrorIs(t, err, ErrInvalidConfiguration)
	m := newManager[int, int](t, WithUnlimited())
	_, err = m.Register("a", echo, WithFallback("a"))
	require.ErrorIs(t, err, ErrInvalidConfiguration, "itself")
	for i, to := range []string{"b", "c", "d"} {
		_, err = m.Register(string(rune('a'+i)), echo, WithFallback(to))
		require.NoError(t, err)
	}
	_, err = m.Register("d", echo, WithFallback("x", "b"))
	require.ErrorIs(t, err, ErrInvalidConfiguration)
	assert.Regexp(t, "b → c → d → b|c → d → b → c|d → b → c → d", err.Error())
	require.ErrorIs(t, m.RegisterAll([]ModelConfig{{ModelID: "d"}}, echo, WithFallback("a")), ErrInvalidConfiguration)
	_, ok := m.Queue("d")
	assert.False(t, ok)
	require.NoError(t, m.Unregister(t.Context(), "b"))
	_, err = m.Register("d", echo, WithFallback("x", "b"))
	require.NoError(t, err, "the circle is open")
}

// In random stories over models that fail, refuse and answer, every request ends exactly
// once, in its own queue.
func TestFallbackStories(t *testing.T) {
	for seed := range uint64(40) {
		synctest.Test(t, func(t *testing.T) {
			rnd := &dice{rnd: rand.New(rand.NewPCG(seed, 7))}
			var mu sync.Mutex
			process := func(ctx context.Context, _ Request[int]) (string, error) {
				mu.Lock()
				fate, d := rnd.IntN(10), time.Duration(rnd.IntN(2000))*time.Millisecond
				mu.Unlock()
				nap(ctx, d)
				switch {
				case fate < 4:
					return "", Retryable(errDown)
				case fate == 4:
					return "", errBoom
				case fate == 5:
					return quotaGone(ctx, Request[int]{})
				}
				return "ok", ctx.Err()
			}
			open := func() Option { return WithBreaker(func(string) Breaker { return &scripted{limit: 2} }) }
			m := managerOf(t,
				served{"a", process, []Option{WithLimits(RPM(30), Concurrent(3)), WithFallback("b", "c"), open()}},
				served{"b", process, []Option{WithLimits(RPM(20)), WithFallback("c"), open()}},
				served{"c", process, []Option{WithLimits(Concurrent(2)), WithMaxQueued(5)}})
			a, _ := m.Queue("a")
			ends := map[string]int{}
			total := 120
			for i := range total {
				id := fmt.Sprint(i)
				ctx, cancel := context.WithCancel(t.Context())
				noWait := rnd.IntN(2) == 0
				maxWait := time.Duration(rnd.IntN(3)) * 10 * time.Second
				go func() {
					defer cancel()
					r, err := a.Submit(ctx, Request[int]{ID: id, NoWait: noWait, MaxWait: maxWait})
					if err == nil && r.Status == StatusPending {
						r, _ = a.Wait(context.Background(), id)
					}
					mu.Lock()
					defer mu.Unlock()
					if r.Status == "" || r.Status.Final() {
						ends[id]++
					}
				}()
				time.Sleep(time.Duration(rnd.IntN(1000)) * time.Millisecond)
				switch rnd.IntN(12) {
				case 0:
					cancel()
				case 1:
					_ = a.Cancel(id)
				case 2:
					_ = m.Cancel("b", id)
				case 3:
					a.Resume()
				}
			}
			time.Sleep(3 * time.Hour)
			synctest.Wait()
			mu.Lock()
			require.Len(t, ends, total, "seed %d", seed)
			for id, n := range ends {
				require.Equal(t, 1, n, "seed %d: request %s", seed, id)
			}
			mu.Unlock()
			for _, id := range m.Models() {
				q, _ := m.Queue(id)
				i := addsUp(t, q)
				assert.Zero(t, i.Pending+i.Processing+i.Forwarded, "seed %d: %s", seed, id)
			}
		})
	}
}

// A fallback that was never registered is told by the first Submit and by Check, and not by
// an outage. Registering it mends that.
func TestFallbackThatWasNeverRegistered(t *testing.T) {
	m := newManager[int, int](t, WithUnlimited())
	require.NoError(t, m.Check())
	a, err := m.Register("a", echo, WithFallback("b"))
	require.NoError(t, err, "models may be registered in any order")
	refused := func(err error, models ...string) {
		t.Helper()
		require.ErrorIs(t, err, ErrInvalidConfiguration)
		require.ErrorIs(t, err, ErrModelNotRegistered)
		for _, model := range models {
			assert.Contains(t, err.Error(), `"`+model+`"`)
		}
	}
	_, err = a.Submit(t.Context(), Request[int]{})
	refused(err, "a", "b")
	_, err = m.Submit(t.Context(), Request[int]{ModelID: "a", NoWait: true})
	refused(err, "a", "b")
	_, err = a.Forecast(t.Context(), Request[int]{})
	refused(err, "a", "b")
	refused(m.Check(), "a", "b")
	assert.Zero(t, a.Info().Accepted)

	_, err = m.Register("b", echo, WithFallback("c", "d"))
	require.NoError(t, err)
	_, err = a.Submit(t.Context(), Request[int]{})
	refused(err, "b", "c") // what it falls back to would find out in an outage
	refused(m.Check(), "b", "c", "d")

	require.NoError(t, m.RegisterAll([]ModelConfig{{ModelID: "c"}, {ModelID: "d"}}, echo))
	require.NoError(t, m.Check())
	_, err = a.Submit(t.Context(), Request[int]{})
	require.NoError(t, err)

	require.NoError(t, m.Unregister(t.Context(), "d"))
	refused(m.Check(), "b", "d")
	_, err = a.Submit(t.Context(), Request[int]{})
	require.NoError(t, err, "one that is gone is passed over, and the others go on")
}
