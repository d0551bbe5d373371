package chat

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/llmqueue/llmqueue"
	"github.com/llmqueue/llmqueue/llmtest"
)

// newQueue returns a queue whose processor returns the SDK's errors as they are.
func newQueue(t *testing.T, p *Provider, opts ...llmqueue.Option) *llmqueue.Queue[string, string] {
	t.Helper()
	queue, err := llmqueue.NewQueue("m", func(ctx context.Context, req llmqueue.Request[string]) (string, error) {
		reply, err := p.Ask(ctx, req.ModelID, req.Params, 20)
		return reply.Text, err
	}, opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = queue.Shutdown(context.WithoutCancel(t.Context())) })
	return queue
}

func open(t *testing.T, simulator Simulator) *Provider {
	t.Helper()
	p, err := Open(simulator)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return p
}

// What the queue makes of a failure is seen in how often it tries.
func TestFailures(t *testing.T) {
	t.Setenv(KeyVariable, "")
	for _, tt := range []struct {
		name     string
		script   []llmtest.Fault
		attempts int
		ok       bool
	}{
		{"answered", nil, 1, true},
		{"rate limited once", []llmtest.Fault{{Status: 429, RetryAfter: time.Second}}, 2, true},
		{"overloaded once", []llmtest.Fault{{Status: 503}}, 2, true},
		{"broken twice", []llmtest.Fault{{Status: 500}, {Status: 500}}, 3, true},
		{"connection lost", []llmtest.Fault{{Kind: llmtest.FaultReset}}, 2, true},
		{"out of money", []llmtest.Fault{{Kind: llmtest.FaultQuota}}, 1, false},
		{"bad request", []llmtest.Fault{{Status: 400}}, 1, false},
		{"wrong key", []llmtest.Fault{{Status: 401}}, 1, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := open(t, Simulator{Options: []llmtest.Option{llmtest.WithFaultScript(tt.script...)}})
				queue := newQueue(t, p, llmqueue.WithUnlimited(), llmqueue.WithRetry(llmqueue.RetryPolicy{BaseDelay: time.Millisecond}))
				begin := time.Now()
				res, err := queue.Submit(t.Context(), llmqueue.NewRequest("m", "hello"))
				if res.Attempts != tt.attempts || (err == nil) != tt.ok {
					t.Errorf("%d attempts, error %v; want %d attempts, success %v", res.Attempts, err, tt.attempts, tt.ok)
				}
				if len(tt.script) > 0 && time.Since(begin) < tt.script[0].RetryAfter {
					t.Errorf("tried again after %v although the server asked for %v", time.Since(begin), tt.script[0].RetryAfter)
				}
			})
		})
	}
}

// A caller who leaves says nothing about the provider: nobody tries again.
func TestCancellationIsLeftAlone(t *testing.T) {
	t.Setenv(KeyVariable, "")
	synctest.Test(t, func(t *testing.T) {
		p := open(t, Simulator{Options: []llmtest.Option{llmtest.WithLatency(llmtest.Latency{FirstToken: time.Minute})}})
		queue := newQueue(t, p, llmqueue.WithUnlimited())
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		res, err := queue.Submit(ctx, llmqueue.NewRequest("m", "hello"))
		if res.Status != llmqueue.StatusCanceled || res.Attempts != 1 || !errors.Is(err, llmqueue.ErrCanceled) {
			t.Errorf("%s after %d attempts, error %v", res.Status, res.Attempts, err)
		}
		time.Sleep(time.Hour)
		if n := len(p.Server.Arrivals()); n != 1 {
			t.Errorf("the server saw %d calls, want the one", n)
		}
	})
}

// The queue learns a scaled minute as the server has it, and a whole one from the
// headers as they come.
func TestMinuteIsLearned(t *testing.T) {
	t.Setenv(KeyVariable, "")
	for _, minute := range []time.Duration{100 * time.Millisecond, 3 * time.Second, time.Minute, time.Hour} {
		synctest.Test(t, func(t *testing.T) {
			p := open(t, Simulator{
				Limits: []llmtest.Limit{llmtest.RPM(7).Per(minute), llmtest.TPM(1000).Per(minute)},
				Minute: minute,
			})
			queue := newQueue(t, p, llmqueue.WithLearnedLimits())
			if _, err := queue.Do(t.Context(), "hello"); err != nil {
				t.Fatal(err)
			}
			limits := queue.Info().Limits
			got := make(map[llmqueue.LimitKind]llmqueue.Limit)
			for _, l := range limits {
				got[l.Limit.Kind] = l.Limit
			}
			for kind, amount := range map[llmqueue.LimitKind]int64{llmqueue.KindRPM: 7, llmqueue.KindTPM: 1000} {
				period := got[kind].Period
				if period == 0 {
					period = time.Minute
				}
				if got[kind].Amount != amount || period != minute {
					t.Errorf("%v: learned %s %d per %v, want %d", minute, kind, got[kind].Amount, period, amount)
				}
			}
			if len(limits) != 2 {
				t.Errorf("%v: learned %v", minute, limits)
			}
		})
	}
}

// The key must not be in anything that an example prints.
func TestKeyIsNotShown(t *testing.T) {
	t.Setenv(KeyVariable, "sk-secret")
	t.Setenv("OPENAI_BASE_URL", "http://127.0.0.1:1/v1") // nobody listens there
	p := open(t, Simulator{})
	if p.Server != nil {
		t.Error("a key is set, but a simulator was started")
	}
	_, err := p.Ask(t.Context(), "m", "hello", 20)
	if err == nil {
		t.Fatal("nobody listens, yet there is an answer")
	}
	queue := newQueue(t, p, llmqueue.WithUnlimited(), llmqueue.WithRetry(llmqueue.RetryPolicy{MaxAttempts: 1}))
	_, failed := queue.Do(t.Context(), "hello")
	if failed == nil {
		t.Fatal("nobody listens, yet the queue has an answer")
	}
	for _, shown := range []string{p.String(), err.Error(), failed.Error(), errors.Unwrap(failed).Error()} {
		if strings.Contains(shown, "secret") {
			t.Errorf("the key is in %q", shown)
		}
	}
}
