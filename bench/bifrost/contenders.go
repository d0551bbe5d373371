// Package bifrost measures llmqueue beside Bifrost: the same chat completion of the same
// server, with a queue in front of it.
package bifrost

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"

	bifrost "github.com/maximhq/bifrost/core"
	"github.com/maximhq/bifrost/core/schemas"
	"github.com/valyala/fasthttp"

	"github.com/llmqueue/llmqueue"
	"github.com/llmqueue/llmqueue/bench/internal/contender"
)

// contenders call a server of their own, which does the work and answers at once; at most
// workers calls are under way. The first is what the others are compared with. The second
// is there because Bifrost calls with fasthttp, which costs less than net/http.
var contenders = []contender.Contender{
	{Name: "bare client", New: served(newBare)},
	{Name: "bare fasthttp", New: served(newBareFast)},
	{Name: "llmqueue", New: served(newQueue)},
	{Name: "llmqueue Call", New: served(newCall)},
	{Name: "Bifrost", New: served(newBifrost)},
}

const (
	model  = "gpt-4o-mini"
	path   = "/v1/chat/completions"
	key    = "sk-nobody-checks"
	plenty = 1 << 40 // a limit that never binds
)

// client asks the server at base what the work makes of n.
type client struct {
	ask   func(ctx context.Context, n int) (int, error)
	close func() error
}

// pool is a client and its server.
type pool struct {
	client client
	server *fasthttp.Server
	served chan error
}

func (p pool) Caller() func(context.Context, int) (int, error) { return p.client.ask }

func (p pool) Enqueue(context.Context, int) error {
	return errors.New("only calls that are waited for are measured")
}

func (p pool) Drain() error {
	return errors.Join(p.client.close(), p.server.Shutdown(), <-p.served)
}

func served(connect func(base string, workers int) (client, error)) func(int, int, contender.Work) (contender.Pool, error) {
	return func(workers, _ int, work contender.Work) (contender.Pool, error) {
		l, err := net.Listen("tcp4", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		p := pool{served: make(chan error, 1), server: &fasthttp.Server{Handler: func(ctx *fasthttp.RequestCtx) { complete(ctx, work) }}}
		go func() { p.served <- p.server.Serve(l) }()
		p.client, err = connect("http://"+l.Addr().String(), workers)
		if err != nil {
			return nil, errors.Join(err, p.server.Shutdown())
		}
		return p, nil
	}
}

// complete answers a chat completion. It finds the number in the question without
// parsing it, and allocates next to nothing: what is measured is the clients.
func complete(ctx *fasthttp.RequestCtx, work contender.Work) {
	_, after, _ := bytes.Cut(ctx.PostBody(), []byte(`"content":`))
	_, after, _ = bytes.Cut(after, []byte(`"`)) // Bifrost indents
	question, _, _ := bytes.Cut(after, []byte(`"`))
	n, err := strconv.Atoi(string(question))
	if err != nil || string(ctx.Path()) != path {
		ctx.Error("no question", fasthttp.StatusBadRequest)
		return
	}
	ctx.SetContentType("application/json")
	ctx.Response.AppendBodyString(`{"id":"chatcmpl-1","object":"chat.completion","created":1700000000,"model":"` + model +
		`","choices":[{"index":0,"message":{"role":"assistant","content":"`)
	ctx.Response.AppendBody(strconv.AppendInt(nil, int64(work(n)), 10))
	ctx.Response.AppendBodyString(`"},"finish_reason":"stop"}],"usage":{"prompt_tokens":10,"completion_tokens":5,"total_tokens":15}}`)
}

type message struct {
	Role    string `json:"role"`
	Content string `json:"content"`
}

type question struct {
	Model    string    `json:"model"`
	Messages []message `json:"messages"`
}

type answer struct {
	Choices []struct {
		Message message `json:"message"`
	} `json:"choices"`
	Usage struct {
		Prompt     int64 `json:"prompt_tokens"`
		Completion int64 `json:"completion_tokens"`
	} `json:"usage"`
}

func encode(n int) ([]byte, error) {
	return json.Marshal(question{Model: model, Messages: []message{{Role: "user", Content: strconv.Itoa(n)}}})
}

func decode(status int, body []byte) (int, llmqueue.Usage, error) {
	if status != http.StatusOK {
		return 0, llmqueue.Usage{}, fmt.Errorf("status %d: %s", status, body)
	}
	var a answer
	if err := json.Unmarshal(body, &a); err != nil {
		return 0, llmqueue.Usage{}, err
	}
	if len(a.Choices) != 1 {
		return 0, llmqueue.Usage{}, fmt.Errorf("%d choices", len(a.Choices))
	}
	n, err := strconv.Atoi(a.Choices[0].Message.Content)
	return n, llmqueue.Usage{InputTokens: a.Usage.Prompt, OutputTokens: a.Usage.Completion}, err
}

// caller makes the call with net/http: alone, and under llmqueue.
type caller struct {
	url       string
	client    http.Client
	transport http.Transport
}

func newCaller(base string, workers int) *caller {
	c := &caller{url: base + path}
	c.transport.MaxIdleConnsPerHost = workers // or most calls dial
	c.client.Transport = &c.transport
	return c
}

func (c *caller) call(ctx context.Context, n int) (int, llmqueue.Usage, error) {
	body, err := encode(n)
	if err != nil {
		return 0, llmqueue.Usage{}, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.url, bytes.NewReader(body))
	if err != nil {
		return 0, llmqueue.Usage{}, err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Authorization", "Bearer "+key)
	resp, err := c.client.Do(req)
	if err != nil {
		return 0, llmqueue.Usage{}, err
	}
	defer resp.Body.Close()
	body, err = io.ReadAll(resp.Body)
	if err != nil {
		return 0, llmqueue.Usage{}, err
	}
	return decode(resp.StatusCode, body)
}

// slots let so many calls be under way: the least that bounds them.
type slots chan struct{}

func (s slots) hold(ctx context.Context, ask func() (int, error)) (int, error) {
	select {
	case s <- struct{}{}:
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	defer func() { <-s }()
	return ask()
}

func newBare(base string, workers int) (client, error) {
	c, free := newCaller(base, workers), make(slots, workers)
	return client{
		ask: func(ctx context.Context, n int) (int, error) {
			return free.hold(ctx, func() (int, error) {
				got, _, err := c.call(ctx, n)
				return got, err
			})
		},
		close: func() error { c.transport.CloseIdleConnections(); return nil },
	}, nil
}

// newBareFast cannot leave a call whose context ends: fasthttp knows no context.
func newBareFast(base string, workers int) (client, error) {
	c, free := &fasthttp.Client{}, make(slots, workers)
	return client{
		ask: func(ctx context.Context, n int) (int, error) {
			return free.hold(ctx, func() (int, error) {
				body, err := encode(n)
				if err != nil {
					return 0, err
				}
				req, resp := fasthttp.AcquireRequest(), fasthttp.AcquireResponse()
				defer fasthttp.ReleaseRequest(req)
				defer fasthttp.ReleaseResponse(resp)
				req.SetRequestURI(base + path)
				req.Header.SetMethod(http.MethodPost)
				req.Header.SetContentType("application/json")
				req.Header.Set("Authorization", "Bearer "+key)
				req.SetBody(body)
				if err := c.Do(req, resp); err != nil {
					return 0, err
				}
				got, _, err := decode(resp.StatusCode(), resp.Body())
				return got, err
			})
		},
		close: func() error { c.CloseIdleConnections(); return nil },
	}, nil
}

var estimate = llmqueue.Usage{InputTokens: 10, OutputTokens: 10}

func limits(workers int) llmqueue.Option {
	return llmqueue.WithLimits(llmqueue.RPM(plenty), llmqueue.TPM(plenty), llmqueue.Concurrent(int64(workers)))
}

// newQueue has the processor call.
func newQueue(base string, workers int) (client, error) {
	c := newCaller(base, workers)
	q, err := llmqueue.NewQueue(model, func(ctx context.Context, r llmqueue.Request[int]) (int, error) {
		got, usage, err := c.call(ctx, r.Params)
		llmqueue.ReportUsage(ctx, usage)
		return got, err
	}, limits(workers))
	if err != nil {
		return client{}, err
	}
	return client{
		ask: func(ctx context.Context, n int) (int, error) {
			resp, err := q.Submit(ctx, llmqueue.Request[int]{Params: n, Estimate: estimate})
			return resp.Result, err
		},
		close: func() error {
			defer c.transport.CloseIdleConnections()
			return q.Shutdown(context.Background())
		},
	}, nil
}

// newCall has the one who asks call, under a permit.
func newCall(base string, workers int) (client, error) {
	c := newCaller(base, workers)
	q, err := llmqueue.NewQueue(model, func(context.Context, llmqueue.Request[int]) (int, error) {
		return 0, errors.New("nothing is submitted")
	}, limits(workers))
	if err != nil {
		return client{}, err
	}
	return client{
		ask: func(ctx context.Context, n int) (got int, err error) {
			err = q.Call(ctx, llmqueue.Claim{Estimate: estimate}, func(ctx context.Context) error {
				var usage llmqueue.Usage
				var err error
				got, usage, err = c.call(ctx, n)
				llmqueue.ReportUsage(ctx, usage)
				return err
			})
			return got, err
		},
		close: func() error {
			defer c.transport.CloseIdleConnections()
			return q.Shutdown(context.Background())
		},
	}, nil
}

// newBifrost has its own queue and workers call an OpenAI that is elsewhere. Everything
// but the number of workers is as it comes: no plugins, no tracer, no retries.
func newBifrost(base string, workers int) (client, error) {
	b, err := bifrost.Init(context.Background(), schemas.BifrostConfig{
		Account: account{base, workers},
		Logger:  bifrost.NewDefaultLogger(schemas.LogLevelError),
	})
	if err != nil {
		return client{}, err
	}
	return client{
		ask: func(ctx context.Context, n int) (int, error) {
			bctx, cancel := schemas.NewBifrostContextWithCancel(ctx)
			defer cancel()
			resp, failed := b.ChatCompletionRequest(bctx, &schemas.BifrostChatRequest{
				Provider: schemas.OpenAI,
				Model:    model,
				Input: []schemas.ChatMessage{{
					Role:    schemas.ChatMessageRoleUser,
					Content: &schemas.ChatMessageContent{ContentStr: new(strconv.Itoa(n))},
				}},
			})
			if failed != nil {
				return 0, errors.New(failed.String())
			}
			return bifrostAnswer(resp)
		},
		close: func() error { b.Shutdown(); return nil },
	}, nil
}

func bifrostAnswer(resp *schemas.BifrostChatResponse) (int, error) {
	if len(resp.Choices) != 1 {
		return 0, fmt.Errorf("%d choices", len(resp.Choices))
	}
	choice := resp.Choices[0].ChatNonStreamResponseChoice
	if choice == nil || choice.Message == nil || choice.Message.Content == nil || choice.Message.Content.ContentStr == nil {
		return 0, errors.New("a choice without text")
	}
	return strconv.Atoi(*choice.Message.Content.ContentStr)
}

// account is one key of OpenAI, and a base URL.
type account struct {
	base    string
	workers int
}

func (a account) GetConfiguredProviders() ([]schemas.ModelProvider, error) {
	return []schemas.ModelProvider{schemas.OpenAI}, nil
}

func (a account) GetKeysForProvider(context.Context, schemas.ModelProvider) ([]schemas.Key, error) {
	return []schemas.Key{{Value: *schemas.NewSecretVar(key), Models: schemas.WhiteList{"*"}, Weight: 1}}, nil
}

func (a account) GetConfigForProvider(schemas.ModelProvider) (*schemas.ProviderConfig, error) {
	config := &schemas.ProviderConfig{
		NetworkConfig:            schemas.NetworkConfig{BaseURL: a.base},
		ConcurrencyAndBufferSize: schemas.ConcurrencyAndBufferSize{Concurrency: a.workers},
	}
	config.CheckAndSetDefaults()
	return config, nil
}
