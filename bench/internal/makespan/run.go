// Package makespan measures in what time a batch of questions is answered by a
// provider that enforces limits, against the least that the limits allow.
package makespan

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/option"
	"golang.org/x/sync/errgroup"

	"github.com/llmqueue/llmqueue/llmtest"
)

// Ask gets a question answered. It is called at once for all questions, in their
// order, each in a goroutine of its own.
type Ask func(context.Context, Question) error

// Contestant is one way to keep limits.
type Contestant struct {
	Name  string
	Setup string // what it is, in a few words
	// New sets it up for a provider. stop is called when no Ask runs any more.
	New func(Provider) (ask Ask, stop func() error, err error)
}

// Trial is a batch of questions for one provider.
type Trial struct {
	Enforcement Enforcement
	Limits      Limits
	Questions   []Question
	Bound       time.Duration    // on a run; what is not answered by then has failed
	Margin      time.Duration    // of llmqueue
	Options     []llmtest.Option // of the simulator, besides those that make it OpenAI
}

// Result is one contestant's run.
type Result struct {
	Contestant Contestant
	Wall       time.Duration // from the provider's start to the end of the last call
	Refused    int64         // calls that were answered 429
	Failed     int           // questions without an answer
	Wasted     int64         // tokens charged for calls that brought no answer
	Err        error         // why the first question failed
}

// Answered is whether every question was.
func (r Result) Answered() bool { return r.Failed == 0 }

// Run runs the trial. Its error says that the contestant could not be set up; questions
// that fail are part of the result.
func (t Trial) Run(ctx context.Context, c Contestant) (Result, error) {
	res := Result{Contestant: c}
	begin := time.Now()
	p, srv, err := t.start(t.Enforcement.limits(t.Limits))
	if err != nil {
		return res, err
	}
	defer srv.Close()
	ask, stop, err := c.New(p)
	if err != nil {
		return res, fmt.Errorf("%s: %w", c.Name, err)
	}
	ctx, cancel := context.WithTimeout(ctx, t.Bound)
	defer cancel()
	var (
		mu  sync.Mutex // guards res
		all sync.WaitGroup
	)
	for _, q := range t.Questions {
		begun := make(chan struct{})
		all.Go(func() {
			close(begun)
			err := ask(ctx, q)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				res.Failed++
				if res.Err == nil {
					res.Err = err
				}
			}
		})
		<-begun // so that questions come in order, but for neighbors here and there
	}
	all.Wait()
	res.Wall = time.Since(begin)
	if err := stop(); err != nil {
		return res, fmt.Errorf("%s: %w", c.Name, err)
	}
	srv.Close()
	st := srv.Stats()
	res.Refused, res.Wasted = st.Refused, st.TokensWasted
	return res, nil
}

// start starts the simulator of a provider with some limits. The same question always
// gets the same answer in the same time from it.
func (t Trial) start(limits []llmtest.Limit) (Provider, *llmtest.Server, error) {
	srv, err := llmtest.Start(llmtest.OpenAI(limits...), append([]llmtest.Option{
		llmtest.WithLatency(llmtest.TypicalLatency().Scaled(t.Limits.Period.Minutes())),
		llmtest.WithOutputTokens(60, 0.5),
	}, t.Options...)...)
	if err != nil {
		return Provider{}, nil, err
	}
	p := Provider{Limits: t.Limits, Announced: t.Enforcement.announced(t.Limits), Margin: t.Margin, Server: srv}
	for _, q := range t.Questions {
		p.Largest = max(p.Largest, q.tokens())
	}
	return p, srv, nil
}

// Latencies asks every question of a provider without limits, a few at a time, and
// returns how long each answer takes: of two times the shorter one, as a busy machine
// makes it longer and never shorter.
func (t Trial) Latencies(ctx context.Context) ([]time.Duration, error) {
	const passes, atOnce = 2, 48
	shortest := make([]time.Duration, len(t.Questions))
	for range passes {
		p, srv, err := t.start(nil)
		if err != nil {
			return nil, err
		}
		client := p.Client()
		all, ctx := errgroup.WithContext(ctx)
		all.SetLimit(atOnce)
		for i, q := range t.Questions {
			all.Go(func() error {
				begin := time.Now()
				_, err := chat(ctx, client, q)
				if d := time.Since(begin); shortest[i] == 0 || d < shortest[i] {
					shortest[i] = d
				}
				return err
			})
		}
		err = all.Wait()
		srv.Close()
		if err != nil {
			return nil, fmt.Errorf("a provider without limits: %w", err)
		}
	}
	return shortest, nil
}

// Provider is what a contestant is set up for.
type Provider struct {
	Limits
	Announced time.Duration // the period of the limits that the answers' headers state
	Largest   int64         // tokens that the largest call is charged
	Margin    time.Duration // of llmqueue
	Server    *llmtest.Server
}

// Client is the official SDK's client. It retries failed calls as often as given, or
// as often as its default says.
func (p Provider) Client(opts ...option.RequestOption) openai.Client {
	return openai.NewClient(slices.Concat([]option.RequestOption{
		option.WithBaseURL(p.Server.URL()),
		option.WithHTTPClient(p.Server.Client()),
		option.WithAPIKey("no-key-needed"),
	}, opts)...)
}

// chat makes one call, with the client's own retries.
func chat(ctx context.Context, client openai.Client, q Question) (*openai.ChatCompletion, error) {
	return client.Chat.Completions.New(ctx, openai.ChatCompletionNewParams{
		Model:               "gpt-4.1-mini",
		Messages:            []openai.ChatCompletionMessageParamUnion{openai.UserMessage(q.Prompt)},
		MaxCompletionTokens: openai.Int(q.MaxTokens),
	})
}
