package sdktest

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"charm.land/fantasy"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/anthropics/anthropic-sdk-go"
	"github.com/aws/aws-sdk-go-v2/service/bedrockruntime/types"
	smithyhttp "github.com/aws/smithy-go/transport/http"
	einoopenai "github.com/cloudwego/eino-ext/components/model/openai"
	cohere "github.com/cohere-ai/cohere-go/v2"
	coherecore "github.com/cohere-ai/cohere-go/v2/core"
	anyllmerrors "github.com/mozilla-ai/any-llm-go/errors"
	"github.com/ollama/ollama/api"
	openaiv1 "github.com/openai/openai-go"
	openaiv2 "github.com/openai/openai-go/v2"
	"github.com/openai/openai-go/v3"
	goopenai "github.com/sashabaranov/go-openai"
	"google.golang.org/genai"

	"github.com/llmqueue/llmqueue"
	"github.com/llmqueue/llmqueue/llmhttp"
	"github.com/llmqueue/llmqueue/llmtest"
)

// What each client makes of a call that the queue refuses: its own error with the status, from
// its one call, and the queue's error where the client's has the response.

// clientErrors find in a client's error the status, and the response where it is kept. They
// return 0 for an error that is not the client's own.
var clientErrors = map[string]func(err error) (status int, res *http.Response){
	"openai-go chat":      errorOf(func(e *openai.Error) (int, *http.Response) { return e.StatusCode, e.Response }),
	"openai-go responses": errorOf(func(e *openai.Error) (int, *http.Response) { return e.StatusCode, e.Response }),
	"anthropic-sdk-go":    errorOf(func(e *anthropic.Error) (int, *http.Response) { return e.StatusCode, e.Response }),
	"azopenai":            errorOf(func(e *azcore.ResponseError) (int, *http.Response) { return e.StatusCode, e.RawResponse }),
	"bedrockruntime": errorOf(func(e *smithyhttp.ResponseError) (int, *http.Response) {
		return e.HTTPStatusCode(), e.Response.Response
	}),
	"any-llm-go openai":     errorOf(func(e *openaiv1.Error) (int, *http.Response) { return e.StatusCode, e.Response }),
	"fantasy openai":        errorOf(ofFantasy),
	"go-openai":             errorOf(func(e *goopenai.APIError) (int, *http.Response) { return e.HTTPStatusCode, nil }),
	"eino openai":           errorOf(func(e *einoopenai.APIError) (int, *http.Response) { return e.HTTPStatusCode, nil }),
	"genai":                 errorOf(func(e genai.APIError) (int, *http.Response) { return e.Code, nil }),
	"ollama":                errorOf(func(e api.StatusError) (int, *http.Response) { return e.StatusCode, nil }),
	"cohere-go":             errorOf(func(e *coherecore.APIError) (int, *http.Response) { return e.StatusCode, nil }),
	"langchaingo openai":    statusInText,
	"langchaingo anthropic": statusInText,
}

func errorOf[E error](read func(E) (int, *http.Response)) func(error) (int, *http.Response) {
	return func(err error) (int, *http.Response) {
		e, ok := errors.AsType[E](err)
		if !ok {
			return 0, nil
		}
		return read(e)
	}
}

// ofFantasy finds the response in the SDK's error, which fantasy's keeps as its cause and does not unwrap to.
func ofFantasy(e *fantasy.ProviderError) (int, *http.Response) {
	_, res := errorOf(func(e *openaiv2.Error) (int, *http.Response) { return e.StatusCode, e.Response })(e.Cause)
	return e.StatusCode, res
}

// statusInText reads an error that has nothing but text, as LangChain for Go's have.
func statusInText(err error) (status int, _ *http.Response) {
	_, after, _ := strings.Cut(err.Error(), "unexpected status code: ")
	_, _ = fmt.Sscanf(after, "%d", &status)
	return status, nil
}

// withResponse are the clients whose errors have the response.
var withResponse = map[string]struct{}{
	"openai-go chat": {}, "openai-go responses": {}, "anthropic-sdk-go": {}, "azopenai": {}, "bedrockruntime": {}, "any-llm-go openai": {}, "fantasy openai": {},
}

// ownTypes are errors that a client has for one status alone.
var ownTypes = map[string]map[int]func(error) bool{
	"bedrockruntime": {
		http.StatusRequestEntityTooLarge: is[*types.ValidationException],
		http.StatusTooManyRequests:       is[*types.ThrottlingException],
		http.StatusNotFound:              is[*types.ResourceNotFoundException],
	},
	"cohere-go": {
		http.StatusTooManyRequests: is[*cohere.TooManyRequestsError],
		http.StatusNotFound:        is[*cohere.NotFoundError],
	},
	"any-llm-go openai": {
		http.StatusRequestEntityTooLarge: is[*anyllmerrors.ProviderError],
		http.StatusTooManyRequests:       is[*anyllmerrors.RateLimitError],
		http.StatusNotFound:              is[*anyllmerrors.ModelNotFoundError],
	},
}

func is[E error](err error) bool {
	_, ok := errors.AsType[E](err)
	return ok
}

func TestRefusals(t *testing.T) {
	for _, s := range slices.Concat(sdks, frameworks) {
		for _, stream := range []bool{false, true} {
			for _, c := range []struct {
				name, model string
				limit       llmqueue.Limit
				status      int
				is          error
				says        string
			}{
				{"too large", "m", llmqueue.TPM(100), http.StatusRequestEntityTooLarge, llmqueue.ErrRequestTooLarge, "make it smaller"},
				{"too late", "m", llmqueue.RPM(1), http.StatusTooManyRequests, llmqueue.ErrQueueTimeout, "after its deadline"},
				{"unknown", "other", llmqueue.RPM(1), http.StatusNotFound, llmqueue.ErrModelNotRegistered, "model not registered"},
			} {
				inBubble(t, fmt.Sprintf("%s/stream=%v/%s", s.name, stream, c.name), func(t *testing.T) {
					calls, err := refused(t, s, stream, c.model, c.limit)
					if err == nil || calls != 1 {
						t.Fatalf("%d calls, error %v", calls, err)
					}
					status, res := clientErrors[s.name](err)
					if status != c.status {
						t.Errorf("status %d, want %d: %T %v", status, c.status, err, err)
					}
					if own := ownTypes[s.name][status]; own != nil && !own(err) {
						t.Errorf("not the client's own error for %d: %T %v", status, err, err)
					}
					if _, hasResponse := withResponse[s.name]; hasResponse != (res != nil) {
						t.Errorf("the error's response is %v", res)
					}
					if res == nil && !strings.Contains(err.Error(), c.says) {
						t.Errorf("the error has neither the response nor the queue's words: %v", err)
					}
					if res != nil && !errors.Is(llmhttp.Refusal(res), c.is) {
						t.Errorf("the queue's error is %v, want %v", llmhttp.Refusal(res), c.is)
					}
					if res != nil && (status == http.StatusTooManyRequests) != (res.Header.Get("Retry-After") != "") {
						t.Errorf("Retry-After is %q", res.Header.Get("Retry-After"))
					}
				})
			}
		}
	}
}

// refused asks for an answer to some 600 tokens within five seconds, from a queue of which another call has
// just taken the minute's request.
func refused(t *testing.T, s sdk, stream bool, model string, limit llmqueue.Limit) (calls int64, err error) {
	srv := llmtest.NewServer(t, s.provider(), llmtest.InMemory())
	q, err := llmqueue.NewQueue(model, nothingProcessed, llmqueue.WithLimits(limit))
	if err != nil {
		t.Fatal(err)
	}
	other, err := q.Acquire(t.Context(), llmqueue.Claim{Estimate: llmqueue.Usage{InputTokens: 1}})
	if err != nil {
		t.Fatal(err)
	}
	if err := other.Done(nil); err != nil {
		t.Fatal(err)
	}
	tr := &countingTransport{next: llmhttp.NewQueueTransport(q, srv.Client().Transport)}
	ask := s.client(t, &http.Client{Transport: tr}, srv.URL(), stream)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	_, err = ask(ctx, strings.Repeat("word ", 500))
	if n := srv.Stats().Accepted; n != 0 {
		t.Errorf("%d calls arrived", n)
	}
	if err := q.Shutdown(context.Background()); err != nil {
		t.Fatal(err)
	}
	return tr.calls.Load(), err
}

// The default transport reaches clients that take none: any-llm-go's Anthropic ignores its option.
func TestDefaultTransportReachesWhoTakesNone(t *testing.T) {
	inBubble(t, "any-llm-go anthropic", func(t *testing.T) {
		s := sdks[slices.IndexFunc(sdks, func(s sdk) bool { return s.name == "anthropic-sdk-go" })]
		srv := llmtest.NewServer(t, s.provider(), llmtest.InMemory())
		q := transportQueue(t, s)
		before := http.DefaultTransport
		defer func() { http.DefaultTransport = before }()
		http.DefaultTransport = llmhttp.NewQueueTransport(q, srv.Client().Transport)

		ignored := &countingTransport{next: http.DefaultTransport}
		ask := anyLLMAnthropic(t, &http.Client{Transport: ignored}, srv.URL(), false)
		if _, err := ask(t.Context(), question); err != nil {
			t.Fatal(err)
		}
		if n := q.Info().Completed; n != 1 || ignored.calls.Load() != 0 {
			t.Errorf("%d calls of the queue and %d of the client that was given, want 1 and 0", n, ignored.calls.Load())
		}
	})
}
