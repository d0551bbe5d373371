package llmhttp_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/llmqueue/llmqueue"
	"github.com/llmqueue/llmqueue/llmhttp"
	"github.com/llmqueue/llmqueue/llmtest"
)

// A queue without limits of its own learns them from the provider's answers, and
// what each call used.
func ExampleNewTransport() {
	srv, err := llmtest.Start(llmtest.OpenAI(llmtest.RPM(500), llmtest.TPM(10_000)), llmtest.WithOutputTokens(20, 0))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer srv.Close()

	// The client goes into any SDK, such as with openai-go's option.WithHTTPClient.
	client := &http.Client{Transport: llmhttp.NewTransport(srv.Client().Transport)}
	queue, err := llmqueue.NewQueue("gpt-4o-mini", func(ctx context.Context, req llmqueue.Request[string]) (string, error) {
		body := fmt.Sprintf(`{"model":"gpt-4o-mini","max_tokens":100,"messages":[{"role":"user","content":%q}]}`, req.Params)
		call, err := http.NewRequestWithContext(ctx, http.MethodPost, srv.URL()+"/chat/completions", strings.NewReader(body))
		if err != nil {
			return "", err
		}
		res, err := client.Do(call)
		if err != nil {
			return "", err
		}
		defer res.Body.Close()
		if res.StatusCode != http.StatusOK {
			return "", fmt.Errorf("status %s", res.Status) // no mark needed: the queue knows what it means
		}
		answer, err := io.ReadAll(res.Body)
		return string(answer), err
	}, llmqueue.WithLearnedLimits())
	if err != nil {
		fmt.Println(err)
		return
	}
	defer queue.Shutdown(context.Background())

	res, err := queue.Submit(context.Background(), llmqueue.NewRequest("", "Why is the sky blue?"))
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Printf("%d input and %d output tokens\n", res.Usage.InputTokens, res.Usage.OutputTokens)
	for _, l := range queue.Info().Limits {
		fmt.Println(l.Limit)
	}
	// Output:
	// 5 input and 20 output tokens
	// 500 rpm
	// 10000 tpm
}

// What came another way than over net/http is read by hand.
func ExampleParseError() {
	body := `{"error":{"code":"insufficient_quota","message":"You exceeded your current quota."}}`
	o := llmhttp.ParseError(429, http.Header{}, []byte(body), time.Now())
	fmt.Println(o.Outcome, o.Code)
	// Output: quota_exhausted insufficient_quota
}
