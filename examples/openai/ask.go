package main

import (
	"context"
	"net/http"
	"time"

	"github.com/openai/openai-go/v3/option"

	"github.com/llmqueue/llmqueue"
	"github.com/llmqueue/llmqueue/examples/internal/chat"
)

// Question is what the queue's requests carry.
type Question struct {
	Text      string `validate:"required"`
	MaxTokens int64  `validate:"min=1"`
}

// EstimateUsage tells the queue what to reserve: the prompt, and all that the
// answer may become.
func (q Question) EstimateUsage() llmqueue.Usage {
	return llmqueue.Usage{
		InputTokens:  llmqueue.EstimateTokens(prompt(q.Text)),
		OutputTokens: q.MaxTokens,
	}
}

// Answer is what comes back.
type Answer struct {
	Text    string
	Used    llmqueue.Usage // what the provider says the answer took
	Charged llmqueue.Usage // what it counts against the limit of tokens
	Latency time.Duration
}

// TokenUsage tells the queue what to settle the reservation at.
func (a Answer) TokenUsage() llmqueue.Usage { return a.Charged }

func prompt(question string) string { return question + "\n\n" + instruction }

const instruction = "Solve the problem step by step and end with the result alone on the last line."

// questions gives each text its max_completion_tokens: unless the user set one,
// longer problems may have longer answers.
func (s settings) questions(texts []string) []Question {
	questions := make([]Question, len(texts))
	for i, text := range texts {
		questions[i] = Question{Text: text, MaxTokens: s.maxTokens}
		if s.maxTokens == 0 {
			questions[i].MaxTokens = 64 + 3*llmqueue.EstimateTokens(text)
		}
	}
	return questions
}

// asker calls the SDK.
type asker struct {
	settings
	provider *chat.Provider
}

func newAsker(s settings) (*asker, error) {
	a := &asker{settings: s}
	opts := []option.RequestOption{option.WithMiddleware(noteBegin)}
	if s.noQueue {
		opts = append(opts, option.WithMaxRetries(openaiDefaultRetries))
	}
	var err error
	a.provider, err = chat.Open(s.simulator(), opts...)
	return a, err
}

// openaiDefaultRetries is what the SDK does unless told otherwise.
const openaiDefaultRetries = 2

func (a *asker) close() { a.provider.Close() }

// noteBegin sees every HTTP call, the SDK's own retries too.
func noteBegin(req *http.Request, next option.MiddlewareNext) (*http.Response, error) {
	if begin, ok := req.Context().Value(beginKey{}).(*time.Time); ok {
		*begin = time.Now()
	}
	return next(req)
}

// beginKey is where noteBegin finds the *time.Time to set, when an HTTP call begins.
type beginKey struct{}

// ask makes one call and knows nothing of a queue.
func (a *asker) ask(ctx context.Context, q Question) (Answer, error) {
	var begin time.Time // of the call that is answered: what came before was waiting
	ctx = context.WithValue(ctx, beginKey{}, &begin)
	reply, err := a.provider.Ask(ctx, a.model, prompt(q.Text), q.MaxTokens)
	if err != nil {
		return Answer{}, err
	}
	answer := Answer{Text: reply.Text, Used: reply.Usage, Latency: time.Since(begin)}
	answer.Charged = answer.Used
	if a.charge == chargeReserved {
		// The provider counted max_completion_tokens on arrival and gives
		// nothing back: a refund here would be one that it does not make.
		answer.Charged.OutputTokens = q.MaxTokens
	}
	return answer, nil
}

// process is the queue's processor: the call, and nothing besides. The queue hears
// from the HTTP client what an error means and which limits there are.
func (a *asker) process(ctx context.Context, req llmqueue.Request[Question]) (Answer, error) {
	return a.ask(ctx, req.Params)
}
