package llmtest_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/llmqueue/llmqueue"
	"github.com/llmqueue/llmqueue/llmtest"
)

type Chat struct{ Prompt string }

type Answer struct{ Text string }

func TestFakeSequenceRepeatsItsLastStep(t *testing.T) {
	busy := errors.New("busy")
	process := llmtest.FakeSequence(
		llmtest.FakeError[Chat, Answer](busy),
		llmtest.FakeReply[Chat](Answer{"one"}),
		llmtest.FakeReply[Chat](Answer{"two"}))
	var got strings.Builder
	for range 4 {
		a, err := process(t.Context(), llmqueue.Request[Chat]{})
		fmt.Fprintln(&got, a.Text, err)
	}
	if want := " busy\none <nil>\ntwo <nil>\ntwo <nil>\n"; got.String() != want {
		t.Errorf("got\n%swant\n%s", got.String(), want)
	}
	defer func() {
		if recover() == nil {
			t.Error("a sequence without steps did not panic")
		}
	}()
	llmtest.FakeSequence[Chat, Answer]()
}

func TestFakeDelayWaitsOrGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		process := llmtest.FakeDelay(time.Minute, llmtest.FakeReply[Chat](Answer{"done"}))
		start := time.Now()
		if a, err := process(t.Context(), llmqueue.Request[Chat]{}); a.Text != "done" || err != nil || time.Since(start) != time.Minute {
			t.Errorf("%v, %v after %v", a, err, time.Since(start))
		}
		gone := errors.New("the caller is gone")
		ctx, cancel := context.WithCancelCause(t.Context())
		time.AfterFunc(time.Second, func() { cancel(gone) })
		if a, err := process(ctx, llmqueue.Request[Chat]{}); a.Text != "" || !errors.Is(err, gone) || time.Since(start) != 61*time.Second {
			t.Errorf("%v, %v after %v", a, err, time.Since(start))
		}
	})
}

func TestRecorderRemembersCalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rec := llmtest.Record(llmtest.FakeDelay(time.Second, llmtest.FakeReply[Chat](Answer{})))
		for i := range 3 {
			go rec.Process(t.Context(), llmqueue.Request[Chat]{Params: Chat{fmt.Sprint(i)}})
			time.Sleep(600 * time.Millisecond)
		}
		if rec.Calls() != 3 || rec.PeakConcurrent() != 2 {
			t.Errorf("%d calls, %d at once; want 3 and 2", rec.Calls(), rec.PeakConcurrent())
		}
		for i, r := range rec.Requests() {
			if r.Params.Prompt != fmt.Sprint(i) {
				t.Errorf("call %d was %q", i, r.Params.Prompt)
			}
		}
		time.Sleep(time.Second)
	})
}

func TestRecorderSurvivesPanics(t *testing.T) {
	rec := llmtest.Record(func(context.Context, llmqueue.Request[Chat]) (Answer, error) { panic("boom") })
	for range 2 {
		func() {
			defer func() { recover() }()
			rec.Process(t.Context(), llmqueue.Request[Chat]{})
		}()
	}
	if rec.Calls() != 2 || rec.PeakConcurrent() != 1 {
		t.Errorf("%d calls, %d at once; want 2 and 1", rec.Calls(), rec.PeakConcurrent())
	}
}

// A queue in a unit test: the fakes stand in for the provider, and the recorder
// tells how they were called.
func ExampleRecord() {
	rec := llmtest.Record(llmtest.FakeUsage(llmqueue.Usage{InputTokens: 5, OutputTokens: 2},
		llmtest.FakeReply[Chat](Answer{"Because of Rayleigh."})))
	q, err := llmqueue.NewQueue("gpt-4o-mini", rec.Process, llmqueue.WithLimits(llmqueue.RPM(60), llmqueue.TPM(1000)))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer q.Shutdown(context.Background())

	res, err := q.Submit(context.Background(), llmqueue.NewRequest("gpt-4o-mini", Chat{"Why is the sky blue?"}))
	fmt.Println(res.Result.Text, err)
	fmt.Println(res.Usage.Total(), "tokens in", rec.Calls(), "call:", rec.Requests()[0].Params.Prompt)
	// Output:
	// Because of Rayleigh. <nil>
	// 7 tokens in 1 call: Why is the sky blue?
}

// A sequence fails once and then answers, to see a retry work.
func ExampleFakeSequence() {
	process := llmtest.FakeSequence(
		llmtest.FakeError[Chat, Answer](llmqueue.Retryable(errors.New("502 Bad Gateway"))),
		llmtest.FakeReply[Chat](Answer{"fine"}))
	q, err := llmqueue.NewQueue("gpt-4o-mini", process, llmqueue.WithUnlimited(),
		llmqueue.WithRetry(llmqueue.RetryPolicy{BaseDelay: time.Millisecond}))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer q.Shutdown(context.Background())

	res, err := q.Submit(context.Background(), llmqueue.Request[Chat]{Params: Chat{"How are you?"}})
	fmt.Println(res.Result.Text, err, "after", res.Attempts, "attempts")
	// Output:
	// fine <nil> after 2 attempts
}

// TestQueueIsNeverRefused is the purpose of the package in one test: a queue
// with the provider's limits, in front of a provider that enforces them.
func TestQueueIsNeverRefused(t *testing.T) {
	for _, strategy := range []llmtest.Strategy{llmtest.TokenBucket, llmtest.SlidingWindow, llmtest.FixedWindow} {
		t.Run(string(strategy), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				srv := llmtest.NewServer(t, llmtest.OpenAI(llmtest.RPM(60), llmtest.TPM(5000), llmtest.Concurrent(8)),
					llmtest.InMemory(), llmtest.WithStrategy(strategy), llmtest.WithLatency(llmtest.TypicalLatency()))
				q, err := llmqueue.NewQueue("gpt-4o-mini", func(_ context.Context, req llmqueue.Request[string]) (int, error) {
					res := ask(srv, req.Params)
					defer res.Body.Close()
					if res.StatusCode != 200 {
						return 0, errors.New(res.Status)
					}
					return res.StatusCode, nil
				}, llmqueue.WithLimits(llmqueue.RPM(60), llmqueue.TPM(5000), llmqueue.Concurrent(8)))
				if err != nil {
					t.Fatal(err)
				}
				var wg sync.WaitGroup
				for range 200 {
					wg.Go(func() {
						req := llmqueue.Request[string]{Params: "Why is the sky blue?", Estimate: llmqueue.Usage{InputTokens: 5, OutputTokens: 100}}
						if _, err := q.Submit(t.Context(), req); err != nil {
							t.Error(err)
						}
					})
				}
				wg.Wait()
				if err := q.Shutdown(t.Context()); err != nil {
					t.Error(err)
				}
				if st := srv.Stats(); st.Completed != 200 || st.Refused != 0 {
					t.Errorf("%d completed, %d refused; want 200 and 0", st.Completed, st.Refused)
				}
			})
		})
	}
}
