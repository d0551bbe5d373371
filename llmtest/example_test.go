package llmtest_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/llmqueue/llmqueue/llmtest"
)

// ask sends one question, as any OpenAI client does.
func ask(srv *llmtest.Server, question string) *http.Response {
	body := fmt.Sprintf(`{"model":"gpt-4o-mini","max_tokens":100,"messages":[{"role":"user","content":%q}]}`, question)
	res, err := srv.Client().Post(srv.URL()+"/chat/completions", "application/json", strings.NewReader(body))
	if err != nil {
		panic(err)
	}
	return res
}

// A program starts a server over loopback and closes it itself. The server's
// URL is the base URL for any OpenAI client.
func ExampleStart() {
	srv, err := llmtest.Start(llmtest.OpenAI(llmtest.RPM(2), llmtest.TPM(10_000)))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer srv.Close()

	for range 3 {
		res := ask(srv, "Why is the sky blue?")
		res.Body.Close()
		fmt.Println(res.Status, "remaining:", res.Header.Get("x-ratelimit-remaining-requests"))
	}
	st := srv.Stats()
	fmt.Println("accepted", st.Accepted, "refused", st.Refused, "tokens charged", st.TokensCharged)
	// Output:
	// 200 OK remaining: 1
	// 200 OK remaining: 0
	// 429 Too Many Requests remaining: 0
	// accepted 2 refused 1 tokens charged 210
}

// In a test, a server in memory and a synctest bubble make an hour pass in
// milliseconds and every run the same.
func ExampleInMemory() {
	TestOneASecond := func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			srv := llmtest.NewServer(t, llmtest.OpenAI(llmtest.RPM(60)), llmtest.InMemory())
			for range 3600 {
				ask(srv, "Why is the sky blue?").Body.Close()
				time.Sleep(time.Second)
			}
			if st := srv.Stats(); st.Refused > 0 {
				t.Errorf("%d calls in an hour were refused", st.Refused)
			}
		})
	}
	_ = TestOneASecond // go test finds it by its name at the top level
}

// A script of faults shows what a program does when its provider fails.
func ExampleWithFaultScript() {
	srv, err := llmtest.Start(llmtest.OpenAI(), llmtest.WithFaultScript(
		llmtest.Fault{Status: http.StatusServiceUnavailable},
		llmtest.Fault{Status: http.StatusTooManyRequests, RetryAfter: 2 * time.Second},
		llmtest.Fault{}, // answered as usual
	))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer srv.Close()

	for range 3 {
		res := ask(srv, "Why is the sky blue?")
		res.Body.Close()
		fmt.Printf("%d, retry after %q\n", res.StatusCode, res.Header.Get("Retry-After"))
	}
	// Output:
	// 503, retry after ""
	// 429, retry after "2"
	// 200, retry after ""
}

// Answers have a length and a duration like a real model's, the same for the
// same seed.
func ExampleWithOutputTokens() {
	srv, err := llmtest.Start(llmtest.OpenAI(),
		llmtest.WithSeed(7),
		llmtest.WithOutputTokens(6, 0.5),
		llmtest.WithLatency(llmtest.TypicalLatency().Scaled(0.01)))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer srv.Close()

	res := ask(srv, "Why is the sky blue?")
	defer res.Body.Close()
	var answer struct {
		Choices []struct{ Message struct{ Content string } }
		Usage   struct {
			Completion int64 `json:"completion_tokens"`
		}
	}
	data, _ := io.ReadAll(res.Body)
	if err := json.Unmarshal(data, &answer); err != nil {
		fmt.Println(err)
		return
	}
	fmt.Printf("%d tokens: %s\n", answer.Usage.Completion, answer.Choices[0].Message.Content)
	// Output:
	// 6 tokens: old out ran one old off
}

// Limits combine: each may have its own period, strategy and model. At OpenAI a
// refused request counts as a request.
func ExampleLimit() {
	srv, err := llmtest.Start(llmtest.OpenAI(
		llmtest.RPM(500),
		llmtest.RPM(10).Per(time.Second).By(llmtest.SlidingWindow),
		llmtest.TPM(200).For("gpt-4o-mini").By(llmtest.FixedWindow),
		llmtest.Concurrent(4),
	))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer srv.Close()

	for range 2 {
		ask(srv, "Why is the sky blue?").Body.Close()
	}
	for _, l := range srv.Stats().Limits {
		fmt.Printf("%v: %d of %d, %d refused\n", l.Limit, l.Peak, l.Limit.Amount, l.Refused)
	}
	// Output:
	// requests per min (RPM): 2 of 500, 0 refused
	// requests per 1s: 2 of 10, 0 refused
	// tokens per min (TPM): 105 of 200, 1 refused
	// concurrent requests: 1 of 4, 0 refused
}

// Every provider has its own paths, headers and errors, and enforces and charges
// in its own way. Anthropic counts output as it is produced, and max_tokens does
// not count.
func ExampleAnthropic() {
	srv, err := llmtest.Start(llmtest.Anthropic(llmtest.RPM(50), llmtest.OTPM(1000)), llmtest.WithOutputTokens(900, 0))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer srv.Close()

	for range 3 {
		res, err := srv.Client().Post(srv.URL()+"/v1/messages", "application/json", strings.NewReader(
			`{"model":"claude-sonnet-4-5","max_tokens":4096,"messages":[{"role":"user","content":"Why is the sky blue?"}]}`))
		if err != nil {
			fmt.Println(err)
			return
		}
		var body struct {
			Error struct{ Message string }
		}
		_ = json.NewDecoder(res.Body).Decode(&body)
		res.Body.Close()
		fmt.Printf("%d %q\n", res.StatusCode, body.Error.Message)
	}
	// Output:
	// 200 ""
	// 200 ""
	// 429 "This request would exceed your organization's rate limit of 1,000 output tokens per minute."
}

// A provider may lower a limit at any time. What was used stays used.
func ExampleServer_SetLimits() {
	srv, err := llmtest.Start(llmtest.OpenAI(llmtest.RPD(100)))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer srv.Close()

	for range 3 {
		ask(srv, "Why is the sky blue?").Body.Close()
	}
	if err := srv.SetLimits(llmtest.RPD(3)); err != nil {
		fmt.Println(err)
	}
	res := ask(srv, "Why is the sky blue?")
	res.Body.Close()
	fmt.Println(res.Status, "of", res.Header.Get("x-ratelimit-limit-requests"))
	// Output:
	// 429 Too Many Requests of 3
}

// A timeline shows people what happened, here in virtual time.
func ExampleServer_WriteTimeline() {
	TestTimeline := func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			srv := llmtest.NewServer(t, llmtest.OpenAI(llmtest.RPM(60)), llmtest.InMemory())
			for range 100 {
				ask(srv, "Why is the sky blue?").Body.Close()
			}
			if err := srv.WriteTimeline(t.Output(), time.Second); err != nil {
				t.Error(err)
			}
		})
	}
	_ = TestTimeline // go test finds it by its name at the top level
}
