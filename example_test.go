package llmqueue_test

import (
	"context"
	"encoding/json"
	"errors"
	"expvar"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/llmqueue/llmqueue"
)

type Question struct {
	Text string `validate:"required"`
}

type Answer struct {
	Text   string
	Tokens int64
}

// ask stands for a call of a provider.
func ask(ctx context.Context, req llmqueue.Request[Question]) (Answer, error) {
	in := llmqueue.EstimateTokens(req.Params.Text)
	llmqueue.ReportUsage(ctx, llmqueue.Usage{InputTokens: in, OutputTokens: 2})
	return Answer{Text: "You asked: " + req.Params.Text, Tokens: in + 2}, nil
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func Example() {
	ctx := context.Background()
	q, err := llmqueue.NewQueue("gpt-5-mini", ask,
		llmqueue.WithLimits(llmqueue.RPM(500), llmqueue.TPM(200_000), llmqueue.Concurrent(32)))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer q.Shutdown(ctx)

	answer, err := q.Do(ctx, Question{Text: "Why is the sky blue?"})
	fmt.Println(answer.Text, err)
	// Output: You asked: Why is the sky blue? <nil>
}

func ExampleQueue_Submit() {
	ctx := context.Background()
	q := must(llmqueue.NewQueue("gpt-5-mini", ask, llmqueue.WithLimits(llmqueue.RPM(500))))
	defer q.Shutdown(ctx)

	resp, err := q.Submit(ctx, llmqueue.Request[Question]{
		ID:       "q-1",
		Params:   Question{Text: "What is rain?"},
		Tenant:   "acme",
		Priority: 5,
		MaxWait:  time.Minute,
		Metadata: map[string]string{"trace": "7f3a"},
	})
	fmt.Println(resp.RequestID, resp.Status, resp.Attempts, resp.Usage.Total(), resp.Metadata["trace"], err)
	// Output: q-1 completed 1 6 7f3a <nil>
}

// Fire and forget: Submit returns at once, and the result is looked up later.
func ExampleQueue_Wait() {
	ctx := context.Background()
	q := must(llmqueue.NewQueue("gpt-5-mini", ask, llmqueue.WithLimits(llmqueue.RPM(500))))
	defer q.Shutdown(ctx)

	pending := must(q.Submit(ctx, llmqueue.Request[Question]{Params: Question{Text: "What is snow?"}, NoWait: true}))
	fmt.Println(pending.Status)

	resp, err := q.Wait(ctx, pending.RequestID)
	fmt.Println(resp.Status, resp.Result.Text, err)
	// Output:
	// pending
	// completed You asked: What is snow? <nil>
}

// SubmitAll runs any number of requests in the memory of a few thousand.
func ExampleQueue_SubmitAll() {
	ctx := context.Background()
	q := must(llmqueue.NewQueue("gpt-5-mini", ask, llmqueue.WithLimits(llmqueue.RPM(500))))
	defer q.Shutdown(ctx)

	questions := func(yield func(llmqueue.Request[Question]) bool) {
		for i := range 1000 {
			// The id joins an answer, which comes in order of completion, to its question.
			r := llmqueue.Request[Question]{ID: fmt.Sprint("line-", i), Params: Question{Text: "What is hail?"}}
			if i >= 400 || !yield(r) {
				return
			}
		}
	}
	done := 0
	for resp, err := range q.SubmitAll(ctx, questions) {
		if err != nil {
			fmt.Println(resp.RequestID, err)
			continue
		}
		done++
	}
	fmt.Println(done)
	// Output: 400
}

// A request that can never start, or breaks its tags, is refused at once.
func ExampleErrRequestTooLarge() {
	ctx := context.Background()
	q := must(llmqueue.NewQueue("gpt-5-mini", ask, llmqueue.WithLimits(llmqueue.TPM(1000))))
	defer q.Shutdown(ctx)

	_, err := q.Submit(ctx, llmqueue.Request[Question]{
		Params:   Question{Text: "Tell me everything."},
		Estimate: llmqueue.Usage{InputTokens: 5, OutputTokens: 4000},
	})
	fmt.Println(errors.Is(err, llmqueue.ErrRequestTooLarge))
	fmt.Println(err)

	_, err = q.Do(ctx, Question{})
	fmt.Println(err)
	// Output:
	// true
	// llmqueue: model "gpt-5-mini": request too large, it can never fit its limits: the limit is 1000 tpm, the request reserves 5 input tokens and 4000 output tokens: make it smaller or raise the limit
	// llmqueue: invalid params: Question.Text must satisfy "required"
}

// A processor marks errors that are worth another attempt.
func ExampleRetryable() {
	ctx := context.Background()
	attempts := 0
	flaky := func(context.Context, llmqueue.Request[string]) (string, error) {
		if attempts++; attempts < 3 {
			return "", llmqueue.Retryable(errors.New("503 service unavailable"))
		}
		return "fine", nil
	}
	q := must(llmqueue.NewQueue("gpt-5-mini", flaky, llmqueue.WithLimits(llmqueue.RPM(500)),
		llmqueue.WithRetry(llmqueue.RetryPolicy{MaxAttempts: 4, BaseDelay: time.Millisecond})))
	defer q.Shutdown(ctx)

	resp, err := q.Submit(ctx, llmqueue.Request[string]{})
	fmt.Println(resp.Result, resp.Attempts, err)
	// Output: fine 3 <nil>
}

// RateLimited hands on what a 429 says: the whole queue pauses for that long, and
// the request keeps its place.
func ExampleRateLimited() {
	ctx := context.Background()
	first := true
	call := func(context.Context, llmqueue.Request[string]) (string, error) {
		if first {
			first = false
			return "", llmqueue.RateLimited(errors.New("429 too many requests"), 5*time.Millisecond)
		}
		return "fine", nil
	}
	q := must(llmqueue.NewQueue("gpt-5-mini", call, llmqueue.WithLimits(llmqueue.RPM(500))))
	defer q.Shutdown(ctx)

	resp, err := q.Submit(ctx, llmqueue.Request[string]{})
	fmt.Println(resp.Result, resp.Attempts, resp.WaitTime() >= 5*time.Millisecond, err)
	// Output: fine 2 true <nil>
}

// A permit is leave to make one call, for code that no processor can wrap. Done says how the
// call went; as long as it asks for another attempt, Again waits for it.
func ExampleQueue_Acquire() {
	ctx := context.Background()
	q := must(llmqueue.NewQueue("gpt-5-mini", ask, llmqueue.WithLimits(llmqueue.RPM(500), llmqueue.Concurrent(32))))
	defer q.Shutdown(ctx)

	attempts := 0
	call := func(ctx context.Context) error { // as it is in your code
		if attempts++; attempts == 1 {
			return llmqueue.RateLimited(errors.New("429 too many requests"), 5*time.Millisecond)
		}
		llmqueue.ReportUsage(ctx, llmqueue.Usage{InputTokens: 12, OutputTokens: 30})
		return nil
	}

	p, err := q.Acquire(ctx, llmqueue.Claim{Tenant: "acme", Priority: 5})
	if err != nil {
		fmt.Println(err)
		return
	}
	err = p.Done(call(p.Context()))
	for errors.Is(err, llmqueue.ErrTryAgain) {
		if err = p.Again(ctx); err == nil {
			err = p.Done(call(p.Context()))
		}
	}
	info := q.Info()
	fmt.Println(info.Completed, info.Attempts, info.Usage.Total(), err)
	// Output: 1 2 42 <nil>
}

// Call waits for leave, runs a function on the caller's goroutine and tries it again where that
// helps.
func ExampleQueue_Call() {
	ctx := context.Background()
	q := must(llmqueue.NewQueue("gpt-5-mini", ask, llmqueue.WithLimits(llmqueue.RPM(500), llmqueue.Concurrent(32)),
		llmqueue.WithRetry(llmqueue.RetryPolicy{BaseDelay: time.Millisecond})))
	defer q.Shutdown(ctx)

	attempts := 0
	err := q.Call(ctx, llmqueue.Claim{}, func(ctx context.Context) error {
		if attempts++; attempts == 1 {
			return llmqueue.Retryable(errors.New("503 service unavailable"))
		}
		fmt.Println("called in an attempt:", llmqueue.InAttempt(ctx))
		return nil
	})
	fmt.Println(attempts, err)
	// Output:
	// called in an attempt: true
	// 2 <nil>
}

// What failed, and how, from the error alone.
func ExampleProcessingError() {
	ctx := context.Background()
	broken := func(context.Context, llmqueue.Request[string]) (string, error) { panic("no such model") }
	q := must(llmqueue.NewQueue("gpt-5-mini", broken, llmqueue.WithLimits(llmqueue.RPM(500))))
	defer q.Shutdown(ctx)

	_, err := q.Submit(ctx, llmqueue.Request[string]{ID: "r1"})
	var failed *llmqueue.ProcessingError
	var panicked *llmqueue.PanicError
	fmt.Println(errors.As(err, &failed), errors.As(err, &panicked))
	fmt.Println(err)
	// Output:
	// true true
	// llmqueue: model "gpt-5-mini", request "r1": failed after 1 attempt: processor panicked: no such model
}

func ExampleManager() {
	ctx := context.Background()
	m := llmqueue.NewManager[Question, Answer](llmqueue.WithTimeout(time.Minute))
	defer m.Shutdown(ctx)

	var models []llmqueue.ModelConfig
	config := `[
		{"model_id": "gpt-5-mini", "rate_limiters": [
			{"type": "rpm", "limit": 500}, {"type": "tpm", "limit": 200000, "time_period": "60s"}]},
		{"model_id": "gemini-flash", "rate_limiters": [
			{"type": "rpd", "limit": 1000, "resets": "America/Los_Angeles"}]}
	]`
	if err := json.Unmarshal([]byte(config), &models); err != nil {
		fmt.Println(err)
		return
	}
	if err := m.RegisterAll(models, ask); err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(m.Models())
	resp, err := m.Submit(ctx, llmqueue.NewRequest("gemini-flash", Question{Text: "What is fog?"}))
	fmt.Println(resp.ModelID, resp.Result.Text, err)
	// Output:
	// [gemini-flash gpt-5-mini]
	// gemini-flash You asked: What is fog? <nil>
}

// Info at /debug/vars: importing expvar serves it on http.DefaultServeMux.
func ExampleManager_InfoAll_expvar() {
	ctx := context.Background()
	manager := llmqueue.NewManager[Question, Answer]()
	defer manager.Shutdown(ctx)
	must(manager.Register("gpt-5-mini", ask, llmqueue.WithLimits(llmqueue.RPM(500), llmqueue.TPM(200_000))))
	info := expvar.Func(func() any { return manager.InfoAll() })
	if expvar.Get("llmqueue") == nil { // Publish panics when the name is taken
		expvar.Publish("llmqueue", info)
	}

	must(manager.Submit(ctx, llmqueue.Request[Question]{ModelID: "gpt-5-mini", Params: Question{Text: "What is rain?"}}))
	var seen []struct {
		ModelID   string `json:"model_id"`
		Pending   int    `json:"pending"`
		Completed int    `json:"completed"`
		Limits    []struct {
			Limit     json.RawMessage `json:"limit"`
			Used      int             `json:"used"`
			Available int             `json:"available"`
		} `json:"limits"`
	}
	if err := json.Unmarshal([]byte(info.String()), &seen); err != nil {
		fmt.Println(err)
	}
	for _, queue := range seen {
		fmt.Println(queue.ModelID, queue.Pending, "waiting,", queue.Completed, "completed")
		for _, l := range queue.Limits {
			fmt.Printf("%s: %d used, %d available\n", l.Limit, l.Used, l.Available)
		}
	}
	// Output:
	// gpt-5-mini 0 waiting, 1 completed
	// {"type":"rpm","limit":500,"time_period":"1m0s"}: 1 used, 499 available
	// {"type":"tpm","limit":200000,"time_period":"1m0s"}: 6 used, 199994 available
}

// One organisation's limit over the queues of two models.
func ExampleNewSharedLimits() {
	ctx := context.Background()
	organisation := llmqueue.NewSharedLimits(llmqueue.RPM(1000))
	m := llmqueue.NewManager[Question, Answer](llmqueue.WithSharedLimits(organisation))
	defer m.Shutdown(ctx)
	must(m.Register("gpt-5", ask, llmqueue.WithLimits(llmqueue.RPM(100))))
	must(m.Register("gpt-5-mini", ask, llmqueue.WithLimits(llmqueue.RPM(900))))

	for _, model := range m.Models() {
		must(m.Submit(ctx, llmqueue.NewRequest(model, Question{Text: "What is dew?"})))
	}
	limit := organisation.Info()[0]
	fmt.Println(limit.Limit, "used:", limit.Used)
	// Output: 1000 rpm used: 2
}

// A reservation is settled when the attempt reports what it used: the rest is free
// at once.
func ExampleReportUsage() {
	ctx := context.Background()
	q := must(llmqueue.NewQueue("gpt-5-mini", ask, llmqueue.WithLimits(llmqueue.TPM(1000))))
	defer q.Shutdown(ctx)

	must(q.Submit(ctx, llmqueue.Request[Question]{
		Params:   Question{Text: "What is mist?"},
		Estimate: llmqueue.Usage{InputTokens: 4, OutputTokens: 500},
	}))
	fmt.Println(q.Info().Limits[0].Used)
	// Output: 6
}

// Chunks of a stream go out through a callback in the params; the slot and the
// reservation are held until the processor returns.
func ExampleProcessor_streaming() {
	type Prompt struct {
		Text    string
		OnChunk func(string)
	}
	stream := func(_ context.Context, req llmqueue.Request[Prompt]) (int, error) {
		chunks := []string{"It ", "rains."}
		for _, c := range chunks {
			req.Params.OnChunk(c)
		}
		return len(chunks), nil
	}
	ctx := context.Background()
	q := must(llmqueue.NewQueue("gpt-5-mini", stream, llmqueue.WithLimits(llmqueue.RPM(500))))
	defer q.Shutdown(ctx)

	n, err := q.Do(ctx, Prompt{Text: "Weather?", OnChunk: func(c string) { fmt.Print(c) }})
	fmt.Println("", n, err)
	// Output: It rains. 2 <nil>
}

// Some SDKs return half an answer without an error. What the wire said tells it from a whole one.
func ExampleObserved() {
	half := func(ctx context.Context) string { // as the transport of package llmhttp observes it
		sent := time.Now()
		llmqueue.Observe(ctx, llmqueue.Observation{SentAt: sent, Outcome: llmqueue.OutcomeServed})
		llmqueue.Observe(ctx, llmqueue.Observation{SentAt: sent, Outcome: llmqueue.OutcomeRetryable, Code: "server_error"})
		return "It ra"
	}
	process := func(ctx context.Context, _ llmqueue.Request[string]) (string, error) {
		text := half(ctx)
		if said := llmqueue.Observed(ctx); said.Outcome != llmqueue.OutcomeServed {
			return "", llmqueue.Permanent(fmt.Errorf("half an answer: %q, %s", text, said.Code))
		}
		return text, nil
	}
	ctx := context.Background()
	q := must(llmqueue.NewQueue("gpt-5-mini", process, llmqueue.WithLimits(llmqueue.RPM(500))))
	defer q.Shutdown(ctx)

	_, err := q.Do(ctx, "Weather?")
	fmt.Println(errors.Unwrap(err))
	// Output: half an answer: "It ra", server_error
}

// Middleware surrounds each attempt: timing, tracing, marking errors.
func ExampleWithMiddleware() {
	overloaded := errors.New("529 overloaded")
	mark := func(ctx context.Context, a llmqueue.Attempt, next func(context.Context) error) error {
		err := next(ctx)
		fmt.Println("attempt", a.Number, err)
		if errors.Is(err, overloaded) {
			return llmqueue.Retryable(err)
		}
		return err
	}
	failed := false
	call := func(context.Context, llmqueue.Request[string]) (string, error) {
		if !failed {
			failed = true
			return "", overloaded
		}
		return "fine", nil
	}
	ctx := context.Background()
	q := must(llmqueue.NewQueue("claude", call, llmqueue.WithLimits(llmqueue.RPM(50)),
		llmqueue.WithMiddleware(mark), llmqueue.WithRetry(llmqueue.RetryPolicy{BaseDelay: time.Millisecond})))
	defer q.Shutdown(ctx)
	fmt.Println(q.Do(ctx, "hello"))
	// Output:
	// attempt 1 529 overloaded
	// attempt 2 <nil>
	// fine <nil>
}

func ExampleWithObserver() {
	ctx := context.Background()
	var mu sync.Mutex
	var seen []llmqueue.EventType
	q := must(llmqueue.NewQueue("gpt-5-mini", ask, llmqueue.WithLimits(llmqueue.RPM(500)),
		llmqueue.WithObserver(func(e llmqueue.Event) {
			mu.Lock()
			defer mu.Unlock()
			seen = append(seen, e.Type)
		})))
	must(q.Do(ctx, Question{Text: "What is frost?"}))
	if err := q.Shutdown(ctx); err != nil { // observers have seen everything when it returns
		fmt.Println(err)
	}
	fmt.Println(slices.Compact(seen))
	// Output: [queued started completed]
}

// A key used by an earlier process, or another machine, has used part of the window.
func ExampleWithPriorUsage() {
	ctx := context.Background()
	journal := func(yield func(time.Time, llmqueue.Usage) bool) {
		yield(time.Now().Add(-20*time.Second), llmqueue.Usage{InputTokens: 300, OutputTokens: 100})
	}
	q := must(llmqueue.NewQueue("gpt-5-mini", ask, llmqueue.WithLimits(llmqueue.TPM(1000)), llmqueue.WithPriorUsage(journal)))
	defer q.Shutdown(ctx)
	fmt.Println(q.Info().Limits[0].Available)
	// Output: 600
}
