package llmhttp_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/llmqueue/llmqueue"
	"github.com/llmqueue/llmqueue/accounting"
	"github.com/llmqueue/llmqueue/llmhttp"
	"github.com/llmqueue/llmqueue/llmtest"
)

// These tests ask what a program notices whose calls wait in the transport.

const (
	jsonType   = "Content-Type: application/json"
	streamType = "Content-Type: text/event-stream"
	whole      = `{"object":"chat.completion","choices":[{"message":{"content":"hi"}}],"usage":{"prompt_tokens":4,"completion_tokens":2}}`
	firstPart  = "data: {\"object\":\"chat.completion.chunk\",\"choices\":[{\"delta\":{\"content\":\"Hi\"}}]}\n\n"
	lastPart   = "data: {\"object\":\"chat.completion.chunk\",\"choices\":[{\"delta\":{},\"finish_reason\":\"stop\"}],\"usage\":{\"prompt_tokens\":4,\"completion_tokens\":2}}\n\ndata: [DONE]\n\n"
)

type manager = llmqueue.Manager[string, string]

// newManager has a queue for the model "m".
func newManager(t testing.TB, opts ...llmqueue.Option) *manager {
	t.Helper()
	m := llmqueue.NewManager[string, string](llmqueue.WithUnlimited())
	_, err := m.Register("m", nothingProcessed, opts...)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, m.Shutdown(context.Background())) })
	return m
}

func nothingProcessed(context.Context, llmqueue.Request[string]) (string, error) {
	return "", errors.New("nothing is processed here")
}

// post makes a call as an SDK does.
func post(t testing.TB, body string) *http.Request {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://provider.example/v1/chat/completions", strings.NewReader(body))
	require.NoError(t, err)
	return r
}

// called is the status and the body of a call, and how reading that ended.
func called(t testing.TB, tr http.RoundTripper, r *http.Request) (status int, body string, err error) {
	t.Helper()
	res, err := (&http.Client{Transport: tr}).Do(r)
	if err != nil {
		return 0, "", err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	return res.StatusCode, string(b), err
}

const asksM = `{"model":"m","messages":[{"role":"user","content":"12345678"}],"max_tokens":50}`

// Limits that are exact for processors are exact for calls, too; the caller waits in RoundTrip.
func TestCallsWaitInTheirQueue(t *testing.T) {
	for _, stream := range []bool{false, true} {
		t.Run(fmt.Sprint("stream=", stream), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				srv := llmtest.NewServer(t, llmtest.OpenAI(llmtest.RPM(60), llmtest.TPM(4000)), llmtest.InMemory(),
					llmtest.WithStrategy(llmtest.SlidingWindow), llmtest.WithLatency(llmtest.TypicalLatency()))
				m := newManager(t, llmqueue.WithLimits(llmqueue.RPM(60), llmqueue.TPM(4000), llmqueue.Concurrent(8)), llmqueue.WithAccounting(accounting.Policy{NoRefund: true}))
				tr := llmhttp.NewQueueTransport(m, srv.Client().Transport, llmhttp.WithDefaultModel("m"))
				var all sync.WaitGroup
				for i := range 200 {
					all.Go(func() {
						body := fmt.Sprintf(`{"model":"gpt-4o-mini","messages":[{"role":"user","content":"question %d"}],"max_completion_tokens":100,"stream":%v}`, i, stream)
						r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, srv.URL()+"/chat/completions", strings.NewReader(body))
						if !assert.NoError(t, err) {
							return
						}
						status, answer, err := called(t, tr, r)
						assert.NoError(t, err)
						assert.Equal(t, 200, status, answer)
					})
				}
				all.Wait()
				stats := srv.Stats()
				assert.EqualValues(t, 200, stats.Accepted)
				assert.Zero(t, stats.Refused, "%+v", stats)
				info, err := m.Info("m")
				require.NoError(t, err)
				assert.EqualValues(t, 200, info.Completed)
				assert.Zero(t, info.Processing)
			})
		})
	}
}

func TestFaultsBeforeAnythingIsHandedOnAreTriedAgain(t *testing.T) {
	reset := &net.OpError{Op: "read", Err: errors.New("connection reset by peer")}
	breaks := func(kind, start string) func() *http.Response {
		return func() *http.Response { return response(200, kind, &broken{strings.NewReader(start), reset}) }
	}
	for _, c := range []struct {
		name   string
		first  provider
		then   func() *http.Response
		answer string
	}{
		{"500", answers(says(500, jsonType, `{}`)), says(200, jsonType, whole), whole},
		{"429", answers(says(429, "Retry-After: 7", openAIRateLimit)), says(200, jsonType, whole), whole},
		{"no connection", func(*http.Request) (*http.Response, error) { return nil, reset }, says(200, jsonType, whole), whole},
		{"a whole answer that breaks", answers(breaks(jsonType, `{"choices":[`)), says(200, jsonType, whole), whole},
		{"a whole answer that ends in the middle", answers(says(200, jsonType, `{"choices":[`)), says(200, jsonType, whole), whole},
		{"an error in the place of an answer", answers(says(200, jsonType, `{"error":{"code":502,"message":"Provider disconnected"}}`)), says(200, jsonType, whole), whole},
		{"a page in the place of an answer", answers(says(200, "Content-Type: text/html", "<html>")), says(200, jsonType, whole), whole},
		{"a stream that breaks at once", answers(breaks(streamType, "")), says(200, streamType, firstPart+lastPart), firstPart + lastPart},
		{"a stream that breaks after a comment", answers(breaks(streamType, ": processing\n\n")), says(200, streamType, firstPart+lastPart), firstPart + lastPart},
		{"a stream that begins with an error", answers(says(200, streamType, "data: {\"error\":{\"code\":502,\"message\":\"m\"}}\n\n")), says(200, streamType, firstPart+lastPart), firstPart + lastPart},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newManager(t)
				var bodies []string
				tr := llmhttp.NewQueueTransport(m, provider(func(r *http.Request) (*http.Response, error) {
					b, err := io.ReadAll(r.Body)
					require.NoError(t, err)
					if bodies = append(bodies, string(b)); len(bodies) <= 2 {
						return c.first(r)
					}
					return c.then(), nil
				}))
				for _, repeatable := range []string{"GetBody", "a copy"} {
					bodies = nil
					r := post(t, asksM)
					if repeatable == "a copy" {
						r.GetBody = nil
					}
					status, answer, err := called(t, tr, r)
					require.NoError(t, err, repeatable)
					assert.Equal(t, 200, status)
					assert.Equal(t, c.answer, answer)
					assert.Equal(t, []string{asksM, asksM, asksM}, bodies)
				}
				info, err := m.Info("m")
				require.NoError(t, err)
				assert.EqualValues(t, 2, info.Completed)
				assert.EqualValues(t, 6, info.Attempts)
				assert.Equal(t, used(8, 4, 0), info.Usage)
			})
		})
	}
}

// What was handed on cannot be taken back: the reader gets the error, and nothing is sent again.
func TestStreamThatBreaksLaterIsNotTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reset := &net.OpError{Op: "read", Err: errors.New("connection reset by peer")}
		m := newManager(t)
		calls := 0
		tr := llmhttp.NewQueueTransport(m, provider(func(*http.Request) (*http.Response, error) {
			calls++
			return response(200, streamType, &broken{strings.NewReader(firstPart), reset}), nil
		}))
		_, answer, err := called(t, tr, post(t, asksM))
		require.ErrorIs(t, err, reset)
		assert.Equal(t, firstPart, answer)
		assert.Equal(t, 1, calls)
		info, err := m.Info("m")
		require.NoError(t, err)
		assert.EqualValues(t, 1, info.Failed)
		assert.Zero(t, info.Processing)
	})
}

// When nothing helps, the caller gets what the provider said last.
func TestFailuresAreTheProvidersOwn(t *testing.T) {
	for _, c := range []struct {
		name, kind, body string
		status, attempts int
	}{
		{"a bad request", jsonType, `{"error":{"message":"no","type":"invalid_request_error"}}`, 400, 1},
		{"a wrong key", jsonType, `{"error":{"code":"invalid_api_key"}}`, 401, 1},
		{"500 for ever", jsonType, `{"error":{"message":"x"}}`, 500, 5},
		{"a large one", jsonType, `{"error":{"message":"` + strings.Repeat("x", 100_000) + `"}}`, 400, 1},
		{"an answer that is always cut", jsonType, `{"choices":[`, 200, 5},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newManager(t)
				tr := llmhttp.NewQueueTransport(m, answers(says(c.status, c.kind, c.body)))
				status, body, err := called(t, tr, post(t, asksM))
				require.NoError(t, err)
				assert.Equal(t, c.status, status)
				assert.Equal(t, c.body, body)
				info, err := m.Info("m")
				require.NoError(t, err)
				assert.EqualValues(t, 1, info.Failed)
				assert.EqualValues(t, c.attempts, info.Attempts)
			})
		})
	}
}

// Azure's SDK has one reader for a request's body: its GetBody takes that back to the beginning.
func TestBodiesThatAreRewound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newManager(t)
		var sent []string
		tr := llmhttp.NewQueueTransport(m, provider(func(r *http.Request) (*http.Response, error) {
			b, err := io.ReadAll(r.Body)
			require.NoError(t, err)
			if sent = append(sent, string(b)); len(sent) == 1 {
				return says(500, jsonType, `{}`)(), nil
			}
			return says(200, jsonType, whole)(), nil
		}))
		r := post(t, asksM)
		one := strings.NewReader(asksM)
		body := &closing{Reader: one}
		r.Body, r.GetBody = body, func() (io.ReadCloser, error) {
			_, err := one.Seek(0, io.SeekStart)
			return body, err
		}
		status, _, err := called(t, tr, r)
		require.NoError(t, err)
		assert.Equal(t, 200, status)
		assert.Equal(t, []string{asksM, asksM}, sent)
		assert.True(t, body.closed)
	})
}

// A body without GetBody that is longer than the limit goes out whole, once.
func TestBodiesTooLongToRepeat(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newManager(t)
		var sent []string
		tr := llmhttp.NewQueueTransport(m, provider(func(r *http.Request) (*http.Response, error) {
			b, err := io.ReadAll(r.Body)
			require.NoError(t, err)
			sent = append(sent, string(b))
			return says(500, jsonType, `{}`)(), nil
		}), llmhttp.WithReplayLimit(30))
		r := post(t, asksM)
		r.GetBody = nil
		status, _, err := called(t, tr, r)
		require.NoError(t, err)
		assert.Equal(t, 500, status)
		assert.Equal(t, []string{asksM}, sent)
		failed, err := m.Requests("m", llmqueue.RequestFilter{})
		require.NoError(t, err)
		require.Len(t, failed, 1)
		assert.Contains(t, failed[0].Error, "WithReplayLimit")
	})
}

// The slot is free as soon as the answer was read, was left, or nobody wants it any more.
func TestSlotsAreFreeWhenTheAnswerIs(t *testing.T) {
	for _, c := range []struct {
		name  string
		leave func(t *testing.T, res *http.Response, cancel func())
	}{
		{"closed", func(t *testing.T, res *http.Response, _ func()) { require.NoError(t, res.Body.Close()) }},
		{"canceled", func(t *testing.T, res *http.Response, cancel func()) {
			cancel()
			synctest.Wait()
		}},
		{"read", func(t *testing.T, res *http.Response, _ func()) {
			_, err := io.Copy(io.Discard, res.Body)
			require.NoError(t, err)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newManager(t, llmqueue.WithLimits(llmqueue.Concurrent(1)))
				client := &http.Client{Transport: llmhttp.NewQueueTransport(m, provider(func(r *http.Request) (*http.Response, error) {
					return response(200, streamType, io.MultiReader(strings.NewReader(firstPart), iotest.OneByteReader(strings.NewReader(lastPart)))), nil
				}))}
				for range 3 {
					ctx, cancel := context.WithCancel(t.Context())
					res, err := client.Do(post(t, asksM).WithContext(ctx))
					require.NoError(t, err)
					info, err := m.Info("m")
					require.NoError(t, err)
					assert.Equal(t, 1, info.Processing, "a stream holds its slot")
					c.leave(t, res, cancel)
					info, err = m.Info("m")
					require.NoError(t, err)
					assert.Zero(t, info.Processing)
					cancel()
				}
			})
		})
	}
}

// A caller that leaves while its call waits gets its context's error, and nothing was sent.
func TestCallersThatLeave(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newManager(t, llmqueue.WithLimits(llmqueue.Concurrent(1)))
		held, err := m.Acquire(t.Context(), llmqueue.Claim{ModelID: "m"})
		require.NoError(t, err)
		client := &http.Client{Transport: llmhttp.NewQueueTransport(m, provider(func(*http.Request) (*http.Response, error) {
			t.Error("nothing may be sent")
			return nil, errors.New("sent")
		}))}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err = client.Do(post(t, asksM).WithContext(ctx))
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.NoError(t, held.Done(nil))
	})
}

// The queue's refusals reach an SDK as its provider's.
func TestRefusalsAreInTheProvidersShape(t *testing.T) {
	const openAI, anthropic, gemini, ollama, bedrock = "/v1/chat/completions", "/v1/messages", "/v1beta/models/m:generateContent", "/api/chat", "/model/m/converse"
	tooLong := strings.Repeat("long ", 1000)
	for _, c := range []struct {
		name, path, model, says string
		claim                   llmqueue.Claim
		status                  int
		retryAfter              string
		is                      error
	}{
		{"openai: unknown", openAI, "other", `"code":"model_not_found"`, llmqueue.Claim{}, 404, "", llmqueue.ErrModelNotRegistered},
		{"openai: too large", openAI, "m", `"type":"invalid_request_error"`, llmqueue.Claim{}, 413, "", llmqueue.ErrRequestTooLarge},
		{"openai: too late", openAI, "m", `"code":"rate_limit_exceeded"`, llmqueue.Claim{MaxWait: 5 * time.Second, Estimate: used(1, 0, 0)}, 429, "56", llmqueue.ErrQueueTimeout},
		{"anthropic: too large", anthropic, "m", `{"error":{"message":"llmqueue: `, llmqueue.Claim{}, 413, "", llmqueue.ErrRequestTooLarge},
		{"anthropic: too late", anthropic, "m", `"type":"rate_limit_error"},"type":"error"`, llmqueue.Claim{MaxWait: 5 * time.Second, Estimate: used(1, 0, 0)}, 429, "56", llmqueue.ErrQueueTimeout},
		{"gemini: too late", gemini, "m", `"status":"RESOURCE_EXHAUSTED"`, llmqueue.Claim{MaxWait: 5 * time.Second, Estimate: used(1, 0, 0)}, 429, "56", llmqueue.ErrQueueTimeout},
		{"gemini: too large", gemini, "m", `"status":"INVALID_ARGUMENT"`, llmqueue.Claim{}, 413, "", llmqueue.ErrRequestTooLarge},
		{"ollama: too large", ollama, "m", `{"error":"llmqueue: `, llmqueue.Claim{}, 413, "", llmqueue.ErrRequestTooLarge},
		{"bedrock: too large", bedrock, "m", `{"message":"llmqueue: `, llmqueue.Claim{}, 413, "", llmqueue.ErrRequestTooLarge},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newManager(t, llmqueue.WithLimits(llmqueue.RPM(1), llmqueue.TPM(1000)))
				p, err := m.Acquire(t.Context(), llmqueue.Claim{ModelID: "m", Estimate: used(1, 0, 0)})
				require.NoError(t, err)
				require.NoError(t, p.Done(nil))
				tr := llmhttp.NewQueueTransport(m, answers(says(200, jsonType, whole)))
				body := fmt.Sprintf(`{"model":%q,"messages":[{"content":%q}]}`, c.model, tooLong)
				r, err := http.NewRequestWithContext(llmhttp.WithClaim(t.Context(), c.claim), http.MethodPost, "http://provider.example"+c.path, strings.NewReader(body))
				require.NoError(t, err)
				res, err := (&http.Client{Transport: tr}).Do(r)
				require.NoError(t, err)
				defer res.Body.Close()
				said, err := io.ReadAll(res.Body)
				require.NoError(t, err)
				assert.Equal(t, c.status, res.StatusCode)
				assert.Contains(t, string(said), c.says)
				assert.Equal(t, c.retryAfter, res.Header.Get("Retry-After"))
				assert.Equal(t, "false", res.Header.Get("X-Should-Retry"))
				assert.ErrorIs(t, llmhttp.Refusal(res), c.is)
			})
		})
	}
}

func TestUnknownModels(t *testing.T) {
	for _, c := range []struct {
		name   string
		opts   []llmhttp.Option
		status int
		queued int64
	}{
		{"are refused", nil, 404, 0},
		{"wait in the default's queue", []llmhttp.Option{llmhttp.WithDefaultModel("m")}, 200, 1},
		{"pass", []llmhttp.Option{llmhttp.WithPassUnknown()}, 200, 0},
		{"and those that are not named", []llmhttp.Option{llmhttp.WithDefaultModel("m"), llmhttp.WithModelID(func(c llmhttp.ModelCall) string { return "" })}, 200, 1},
		{"have another name here", []llmhttp.Option{llmhttp.WithModelID(func(c llmhttp.ModelCall) string { return strings.TrimPrefix(c.Model, "vendor/") })}, 200, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := newManager(t)
			var sent string
			tr := llmhttp.NewQueueTransport(m, provider(func(r *http.Request) (*http.Response, error) {
				b, err := io.ReadAll(r.Body)
				sent = string(b)
				return says(200, jsonType, whole)(), err
			}), c.opts...)
			r := post(t, `{"model":"vendor/m"}`)
			r.GetBody = nil
			status, _, err := called(t, tr, r)
			require.NoError(t, err)
			assert.Equal(t, c.status, status)
			if status == 200 {
				assert.Equal(t, `{"model":"vendor/m"}`, sent)
			}
			info, err := m.Info("m")
			require.NoError(t, err)
			assert.Equal(t, c.queued, info.Completed)
		})
	}
}

// A single queue takes what names no model.
func TestCallsOfAQueueWithoutAModel(t *testing.T) {
	m := newManager(t)
	q, ok := m.Queue("m")
	require.True(t, ok)
	tr := llmhttp.NewQueueTransport(q, answers(says(200, jsonType, whole)))
	for body, want := range map[string]int{`{"messages":[]}`: 200, asksM: 200, `{"model":"other"}`: 404} {
		status, _, err := called(t, tr, post(t, body))
		require.NoError(t, err)
		assert.Equal(t, want, status, body)
	}
}

// What asks no model, and what is queued already, waits for nothing.
func TestCallsThatPass(t *testing.T) {
	m := newManager(t, llmqueue.WithLimits(llmqueue.Concurrent(1)))
	tr := llmhttp.NewQueueTransport(m, answers(says(200, jsonType, whole)))
	held, err := m.Acquire(t.Context(), llmqueue.Claim{ModelID: "m"})
	require.NoError(t, err)
	batch := post(t, `{"model":"m"}`)
	batch.URL.Path = "/v1/batches"
	for _, r := range []*http.Request{post(t, asksM).WithContext(held.Context()), batch} {
		status, _, err := called(t, tr, r)
		require.NoError(t, err)
		assert.Equal(t, 200, status)
	}
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://provider.example/v1/models/m", nil)
	require.NoError(t, err)
	status, _, err := called(t, tr, r)
	require.NoError(t, err)
	assert.Equal(t, 200, status)
	require.NoError(t, held.Done(nil))
	info, err := m.Info("m")
	require.NoError(t, err)
	assert.EqualValues(t, 1, info.Accepted)
	assert.Equal(t, used(4, 2, 0), info.Usage, "a nested call is its attempt's")
}

func TestClaims(t *testing.T) {
	m := newManager(t)
	var seen http.Header
	tr := llmhttp.NewQueueTransport(m, provider(func(r *http.Request) (*http.Response, error) {
		seen = r.Header
		requests, err := m.Requests("m", llmqueue.RequestFilter{})
		require.NoError(t, err)
		require.Len(t, requests, 1)
		assert.Equal(t, "acme", requests[0].Tenant)
		assert.Equal(t, "id-1", requests[0].ID)
		assert.Equal(t, 3, requests[0].Priority)
		return says(200, jsonType, whole)(), nil
	}), llmhttp.WithClaimHeaders(llmhttp.ClaimHeaders{ID: "X-Id", Tenant: "X-Tenant", Priority: "X-Priority", MaxWait: "X-Max-Wait"}))
	r := post(t, asksM)
	r = r.WithContext(llmhttp.WithClaim(r.Context(), llmhttp.Claim{Tenant: "other", Priority: 3}))
	r.Header.Set("X-Tenant", "acme")
	r.Header.Set("X-Id", "id-1")
	r.Header.Set("X-Max-Wait", "1.5")
	r.Header.Set("X-Kept", "yes")
	status, _, err := called(t, tr, r)
	require.NoError(t, err)
	assert.Equal(t, 200, status)
	assert.Equal(t, http.Header{"X-Kept": {"yes"}}, seen)
	assert.Equal(t, "acme", r.Header.Get("X-Tenant"), "the caller's request stays as it is")

	for name, bad := range map[string]string{"X-Priority": "high", "X-Max-Wait": "-1s"} {
		r := post(t, asksM)
		r.Header.Set(name, bad)
		status, body, err := called(t, tr, r)
		require.NoError(t, err)
		assert.Equal(t, 400, status)
		assert.Contains(t, body, name)
	}
}

// Each attempt is made ready for the endpoint that it goes to.
func TestEndpointsOfCalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newManager(t)
		q, ok := m.Queue("m")
		require.True(t, ok)
		require.NoError(t, q.AddEndpoint("second", nothingProcessed, llmqueue.WithUnlimited()))
		asked := map[string]int{}
		tr := llmhttp.NewQueueTransport(m, provider(func(r *http.Request) (*http.Response, error) {
			asked[r.URL.Host]++
			if r.URL.Host == "second.example" {
				assert.Equal(t, "Bearer 2", r.Header.Get("Authorization"))
				return says(200, jsonType, whole)(), nil
			}
			return says(401, jsonType, `{"error":{"code":"invalid_api_key"}}`)(), nil
		}), llmhttp.WithEndpoints(func(endpoint string, r *http.Request) error {
			if endpoint == "second" {
				r.URL.Host = "second.example"
				r.Header.Set("Authorization", "Bearer 2")
			}
			return nil
		}))
		for range 20 {
			r := post(t, asksM)
			r.Header.Set("Authorization", "Bearer 1")
			status, _, err := called(t, tr, r)
			require.NoError(t, err)
			assert.Equal(t, 200, status)
			assert.Equal(t, "Bearer 1", r.Header.Get("Authorization"))
		}
		assert.Equal(t, 20, asked["second.example"])
		assert.LessOrEqual(t, asked["provider.example"], 3)
	})
}

// The output that is reserved is the request's bound, else the mean of what was seen.
func TestEstimatesOfCalls(t *testing.T) {
	m := newManager(t, llmqueue.WithLimits(llmqueue.TPM(100_000)))
	release := make(chan struct{})
	reserved := make(chan int64)
	tr := llmhttp.NewQueueTransport(m, provider(func(r *http.Request) (*http.Response, error) {
		info, err := m.Info("m")
		require.NoError(t, err)
		reserved <- info.Limits[0].Used
		<-release
		return says(200, jsonType, whole)(), nil
	}), llmhttp.WithTokenizer(func(model, text string) int64 {
		assert.Equal(t, "m", model)
		return int64(len(strings.Fields(text)))
	}))
	want := int64(0)
	for _, c := range []struct {
		body   string
		tokens int64
	}{
		{`{"model":"m","prompt":"one two three"}`, 3 + 1000},
		{`{"model":"m","prompt":"one two three","max_tokens":70}`, 3 + 70},
		{`{"model":"m","prompt":"one \"two\"\nthree four"}`, 4 + 2},
	} {
		go func() {
			status, _, err := called(t, tr, post(t, c.body))
			assert.NoError(t, err)
			assert.Equal(t, 200, status)
			reserved <- 0
		}()
		assert.Equal(t, want+c.tokens, <-reserved, c.body)
		release <- struct{}{}
		<-reserved
		want += 6 // as the answers say
	}
}

// A guess refuses nothing: a model's limits may be smaller than the answer that is expected.
func TestGuessesRefuseNothing(t *testing.T) {
	m := newManager(t, llmqueue.WithLimits(llmqueue.TPM(500)))
	tr := llmhttp.NewQueueTransport(m, answers(says(200, jsonType, whole)))
	status, _, err := called(t, tr, post(t, `{"model":"m","prompt":"one two three"}`))
	require.NoError(t, err)
	assert.Equal(t, 200, status)
}

func TestFormsNameTheirModel(t *testing.T) {
	m := newManager(t)
	tr := llmhttp.NewQueueTransport(m, answers(says(200, jsonType, `{"text":"hi","usage":{"input_tokens":3,"output_tokens":1}}`)))
	form := "--b\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a.mp3\"\r\n\r\n\x00\x01\r\n--b\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\nm\r\n--b--\r\n"
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://provider.example/v1/audio/transcriptions", strings.NewReader(form))
	require.NoError(t, err)
	r.Header.Set("Content-Type", "multipart/form-data; boundary=b")
	status, _, err := called(t, tr, r)
	require.NoError(t, err)
	assert.Equal(t, 200, status)
	info, err := m.Info("m")
	require.NoError(t, err)
	assert.EqualValues(t, 1, info.Completed)
}

// A client is told when a quota is renewed.
func TestQuotaThatIsUsedUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newManager(t)
		tr := llmhttp.NewQueueTransport(m, answers(says(429, jsonType+"\nRetry-After: 7200", `{"error":{"code":"insufficient_quota","message":"You exceeded your current quota"}}`)))
		status, _, err := called(t, tr, post(t, asksM))
		require.NoError(t, err)
		assert.Equal(t, 429, status)
		res, err := tr.RoundTrip(post(t, asksM))
		require.NoError(t, err)
		defer res.Body.Close()
		body, err := io.ReadAll(res.Body)
		require.NoError(t, err)
		assert.ErrorIs(t, llmhttp.Refusal(res), llmqueue.ErrQuotaExhausted)
		assert.Equal(t, "7200", res.Header.Get("Retry-After"))
		assert.Contains(t, string(body), `"code":"insufficient_quota"`)
	})
}

func TestStatusOf(t *testing.T) {
	for _, c := range []struct {
		err    error
		status int
		after  time.Duration
	}{
		{nil, 200, 0},
		{fmt.Errorf("%w: x", llmqueue.ErrInvalidParams), 400, 0},
		{llmqueue.ErrModelNotRegistered, 404, 0},
		{llmqueue.ErrDuplicateRequest, 409, 0},
		{llmqueue.ErrRequestTooLarge, 413, 0},
		{llmqueue.ErrQueueFull, 429, time.Second},
		{llmqueue.ErrQueueClosed, 503, time.Second},
		{llmqueue.ErrCanceled, 499, 0},
		{&llmqueue.ProcessingError{Err: errors.New("x")}, 502, 0},
		{&llmqueue.ProcessingError{Err: context.DeadlineExceeded}, 504, 0},
		{errors.New("something else"), 500, 0},
	} {
		status, after := llmhttp.StatusOf(c.err)
		assert.Equal(t, c.status, status, c.err)
		assert.Equal(t, c.after, after, c.err)
	}
}
