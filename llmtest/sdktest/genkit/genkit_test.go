package genkit

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/firebase/genkit/go/ai"
	"github.com/firebase/genkit/go/core/api"
	"github.com/firebase/genkit/go/genkit"
	"github.com/firebase/genkit/go/plugins/compat_oai"
	"github.com/openai/openai-go"
	"github.com/openai/openai-go/option"

	"github.com/llmqueue/llmqueue"
	"github.com/llmqueue/llmqueue/accounting"
	"github.com/llmqueue/llmqueue/llmhttp"
	"github.com/llmqueue/llmqueue/llmtest"
)

const (
	callers   = 400
	maxTokens = 60
)

// TestMain lets the runtime's loop for signals begin outside of any bubble: Genkit asks for signals.
func TestMain(m *testing.M) {
	c := make(chan os.Signal, 1)
	signal.Notify(c, os.Interrupt)
	signal.Stop(c)
	m.Run()
}

type queue = llmqueue.Queue[string, string]

func newQueue(t *testing.T, opts ...llmqueue.Option) *queue {
	t.Helper()
	q, err := llmqueue.NewQueue("m", func(context.Context, llmqueue.Request[string]) (string, error) {
		return "", errors.New("this queue is for calls of others")
	}, opts...)
	if err != nil {
		t.Fatal(err)
	}
	return q
}

// model is one of the plugin for all who speak as OpenAI does.
func model(t *testing.T, base http.RoundTripper, url string) (*genkit.Genkit, ai.Model) {
	t.Helper()
	plugin := &compat_oai.OpenAICompatible{
		Provider: "sim", APIKey: "any", BaseURL: url,
		Opts: []option.RequestOption{option.WithHTTPClient(&http.Client{Transport: base})},
	}
	g := genkit.Init(t.Context(), genkit.WithPlugins(plugin))
	m := plugin.DefineModel("sim", "m", ai.ModelOptions{Supports: &compat_oai.BasicText})
	genkit.RegisterAction(g, m.(api.Action))
	return g, m
}

// A call of Genkit waits in its queue, by the transport or by the middleware: none is refused, none
// fails, and what is booked is what the server counted.
func TestCallsWait(t *testing.T) {
	for _, way := range []string{"transport", "middleware"} {
		for _, stream := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/stream=%v", way, stream), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					faults := []llmtest.Option{
						llmtest.WithFaultShare(0.04, llmtest.Fault{Status: 500}),
						llmtest.WithFaultShare(0.04, llmtest.Fault{Status: 503, RetryAfter: 2 * time.Second}),
					}
					srv := llmtest.NewServer(t, llmtest.OpenAI(llmtest.RPM(300), llmtest.TPM(30_000)), append(faults, llmtest.InMemory(),
						llmtest.WithLatency(llmtest.TypicalLatency()), llmtest.WithOutputTokens(40, 0.3))...)
					q := newQueue(t, llmqueue.WithLearnedLimits(), llmqueue.WithLimits(llmqueue.Concurrent(64)),
						llmqueue.WithAccounting(accounting.Azure), llmqueue.WithRetry(llmqueue.RetryPolicy{MaxAttempts: 20}))
					var base http.RoundTripper = llmhttp.NewQueueTransport(q, srv.Client().Transport)
					var opts []ai.GenerateOption
					if way == "middleware" {
						base = llmhttp.NewTransport(srv.Client().Transport)
						opts = append(opts, ai.WithMiddleware(Queued(q)))
					}
					config := openai.ChatCompletionNewParams{MaxCompletionTokens: openai.Int(maxTokens)}
					if stream {
						config.StreamOptions.IncludeUsage = openai.Bool(true)
						opts = append(opts, ai.WithStreaming(func(context.Context, *ai.ModelResponseChunk) error { return nil }))
					}
					g, m := model(t, base, srv.URL())
					opts = append(opts, ai.WithModel(m), ai.WithConfig(config))

					var words atomic.Int64
					var all sync.WaitGroup
					for i := range callers {
						all.Go(func() {
							prompt := strings.Repeat(fmt.Sprintf("%03d ", i), 20)
							res, err := genkit.Generate(t.Context(), g, append(opts[:len(opts):len(opts)], ai.WithPrompt("%s", prompt))...)
							if err != nil {
								t.Errorf("call %d: %v", i, err)
								return
							}
							words.Add(int64(len(strings.Fields(res.Text()))))
						})
					}
					all.Wait()
					if err := q.Shutdown(context.Background()); err != nil {
						t.Fatal(err)
					}
					info, st := q.Info(), srv.Stats()
					if st.Refused != 0 || st.Failed == 0 || info.Completed != callers {
						t.Errorf("%d refused, %d faults, %d of %d completed", st.Refused, st.Failed, info.Completed, callers)
					}
					var counted llmqueue.Usage
					for _, a := range srv.Arrivals() {
						if a.Verdict == llmtest.Completed {
							counted.InputTokens += a.InputTokens
							counted.OutputTokens += a.OutputTokens
						}
					}
					if info.Usage != counted || words.Load() != counted.OutputTokens {
						t.Errorf("booked %+v, the server counted %+v, the answers have %d", info.Usage, counted, words.Load())
					}
				})
			})
		}
	}
}

// A refusal of the queue is the error of the plugin's SDK, with the queue's in its response.
func TestRefusal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := llmtest.NewServer(t, llmtest.OpenAI(), llmtest.InMemory())
		q := newQueue(t, llmqueue.WithLimits(llmqueue.TPM(10)))
		g, m := model(t, llmhttp.NewQueueTransport(q, srv.Client().Transport), srv.URL())
		_, err := genkit.Generate(t.Context(), g, ai.WithModel(m), ai.WithPrompt("%s", strings.Repeat("word ", 100)))
		var failed *openai.Error
		if !errors.As(err, &failed) || failed.StatusCode != http.StatusRequestEntityTooLarge || !errors.Is(llmhttp.Refusal(failed.Response), llmqueue.ErrRequestTooLarge) {
			t.Errorf("error %T: %v", err, err)
		}
		if err := q.Shutdown(context.Background()); err != nil {
			t.Fatal(err)
		}
	})
}
