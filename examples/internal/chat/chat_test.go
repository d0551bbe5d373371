package chat

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/llmqueue/llmqueue"
	"github.com/llmqueue/llmqueue/llmtest"
)

// What a mark does is seen in how often a queue tries.
func TestMark(t *testing.T) {
	t.Setenv("OPENAI_API_KEY", "")
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
		{"bad request", []llmtest.Fault{{Status: 400}}, 1, false},
		{"wrong key", []llmtest.Fault{{Status: 401}}, 1, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p, err := Open(Simulator{Options: []llmtest.Option{llmtest.WithFaultScript(tt.script...)}})
			if err != nil {
				t.Fatal(err)
			}
			defer p.Close()
			queue, err := llmqueue.NewQueue("m", func(ctx context.Context, req llmqueue.Request[string]) (string, error) {
				reply, err := p.Ask(ctx, req.ModelID, req.Params, 20)
				return reply.Text, Mark(err)
			}, llmqueue.WithUnlimited(), llmqueue.WithRetry(llmqueue.RetryPolicy{BaseDelay: time.Millisecond}))
			if err != nil {
				t.Fatal(err)
			}
			defer queue.Shutdown(context.WithoutCancel(t.Context()))
			begin := time.Now()
			res, err := queue.Submit(t.Context(), llmqueue.NewRequest("m", "hello"))
			if res.Attempts != tt.attempts || (err == nil) != tt.ok {
				t.Errorf("%d attempts, error %v; want %d attempts, success %v", res.Attempts, err, tt.attempts, tt.ok)
			}
			if len(tt.script) > 0 && time.Since(begin) < tt.script[0].RetryAfter {
				t.Errorf("tried again after %v although the server asked for %v", time.Since(begin), tt.script[0].RetryAfter)
			}
		})
	}
}

func TestMarkLeavesCancellationAlone(t *testing.T) {
	if err := Mark(context.Canceled); err != context.Canceled {
		t.Errorf("got %v", err)
	}
	if Mark(nil) != nil {
		t.Error("nil became an error")
	}
}

// The key must not be in anything that an example prints.
func TestKeyIsNotShown(t *testing.T) {
	t.Setenv("OPENAI_API_KEY", "sk-secret")
	t.Setenv("OPENAI_BASE_URL", "http://127.0.0.1:1/v1") // nobody listens there
	p, err := Open(Simulator{})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if p.Server != nil {
		t.Error("a key is set, but a simulator was started")
	}
	_, err = p.Ask(t.Context(), "m", "hello", 20)
	if err == nil {
		t.Fatal("nobody listens, yet there is an answer")
	}
	for _, shown := range []string{p.String(), err.Error(), Mark(err).Error(), errors.Unwrap(Mark(err)).Error()} {
		if strings.Contains(shown, "secret") {
			t.Errorf("the key is in %q", shown)
		}
	}
}
