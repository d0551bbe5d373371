package sdktest

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"testing"

	"charm.land/fantasy"
	"github.com/cloudwego/eino/schema"

	"github.com/llmqueue/llmqueue"
	"github.com/llmqueue/llmqueue/llmhttp"
)

// The wrappers keep what the transport that waits keeps, with the one that observes beneath.
func TestWrappers(t *testing.T) {
	for name, w := range map[string]struct {
		of   string // the framework's entry
		wrap way
	}{
		"eino": {"eino openai", func(t *testing.T, _ sdk, stream bool, q *queue, base http.RoundTripper, url string) (ask, func() int64) {
			calls := &countedCaller{queue: q}
			m := QueuedEino{einoModel(t, &http.Client{Transport: llmhttp.NewTransport(base)}, url), calls}
			return func(ctx context.Context, prompt string) (string, error) { return askEino(ctx, m, prompt, stream) }, calls.number
		}},
		"fantasy": {"fantasy openai", func(t *testing.T, _ sdk, stream bool, q *queue, base http.RoundTripper, url string) (ask, func() int64) {
			calls := &countedCaller{queue: q}
			m := QueuedFantasy{fantasyModel(t, &http.Client{Transport: llmhttp.NewTransport(base)}, url), calls}
			return func(ctx context.Context, prompt string) (string, error) { return askFantasy(ctx, m, prompt, stream) }, calls.number
		}},
	} {
		for _, s := range frameworks {
			for _, stream := range []bool{false, true} {
				if s.name == w.of {
					inBubble(t, fmt.Sprintf("%s/stream=%v", name, stream), func(t *testing.T) { queued(t, s, stream, w.wrap) })
				}
			}
		}
	}
}

// A reader that leaves a wrapped stream frees its slot.
func TestWrappedStreamsThatAreLeft(t *testing.T) {
	for name, leave := range map[string]func(t *testing.T, calls caller, client *http.Client, url string){
		"eino": func(t *testing.T, calls caller, client *http.Client, url string) {
			s, err := QueuedEino{einoModel(t, client, url), calls}.Stream(t.Context(), []*schema.Message{schema.UserMessage(question)})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := s.Recv(); err != nil {
				t.Error(err)
			}
			s.Close()
		},
		"fantasy": func(t *testing.T, calls caller, client *http.Client, url string) {
			parts, err := QueuedFantasy{fantasyModel(t, client, url), calls}.Stream(t.Context(), fantasy.Call{Prompt: fantasy.Prompt{fantasy.NewUserMessage(question)}})
			if err != nil {
				t.Fatal(err)
			}
			for range parts {
				break
			}
		},
	} {
		inBubble(t, name, func(t *testing.T) {
			s := frameworks[0]
			srv := serve(t, s.provider())
			q := transportQueue(t, s)
			leave(t, q, &http.Client{Transport: llmhttp.NewTransport(anyKey{srv.Client().Transport})}, srv.URL())
			if err := q.Shutdown(t.Context()); err != nil {
				t.Fatal(err)
			}
			if info := q.Info(); info.Processing != 0 || info.Completed != 1 {
				t.Errorf("%d calls hold a slot, %d are completed", info.Processing, info.Completed)
			}
		})
	}
}

// anyKey gives the server the key that it wants.
type anyKey struct{ next http.RoundTripper }

func (a anyKey) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set("Authorization", "Bearer secret")
	return a.next.RoundTrip(r)
}

// The guide shows the wrappers as they are tested.
func TestGuideShowsTheWrappers(t *testing.T) {
	guide, err := os.ReadFile("../../docs/guides/agents.md")
	if err != nil {
		t.Fatal(err)
	}
	for name, file := range map[string]string{"eino": "wrapper_eino_test.go", "fantasy": "wrapper_fantasy_test.go", "genkit": "genkit/wrapper_test.go"} {
		source, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		_, wrapper, begins := strings.Cut(string(source), "// wrapper: "+name+"\n\n")
		wrapper, _, ends := strings.Cut(wrapper, "\n// end of the wrapper\n")
		if !begins || !ends || !strings.Contains(string(guide), "```golang\n"+wrapper+"```\n") {
			t.Errorf("the guide does not show the wrapper of %s as %s has it", name, file)
		}
	}
}

// countedCaller counts a wrapper's calls.
type countedCaller struct {
	*queue
	calls atomic.Int64
}

func (c *countedCaller) Call(ctx context.Context, claim llmqueue.Claim, f func(ctx context.Context) error) error {
	c.calls.Add(1)
	return c.queue.Call(ctx, claim, f)
}

func (c *countedCaller) number() int64 { return c.calls.Load() }
