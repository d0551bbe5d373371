// Package gateway is llmq serve: a proxy in front of LLM providers whose calls wait in their
// model's queue instead of being refused.
package gateway

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"mime"
	"net/http"
	"net/http/httputil"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/llmqueue/llmqueue"
	"github.com/llmqueue/llmqueue/llmhttp"
	"github.com/llmqueue/llmqueue/llmprom"
)

// Gateway is an http.Handler. Make it with [New] and end it with [Gateway.Close]. Safe for
// concurrent use.
type Gateway struct {
	log      *slog.Logger
	queues   *queues
	proxy    *httputil.ReverseProxy
	pages    http.Handler
	live     atomic.Pointer[live]
	draining atomic.Bool
	redis    redis.UniversalClient
}

// live is what a configuration that is read again may change.
type live struct {
	config  *Config
	clients []client
}

// Options are what a gateway has beside its configuration.
type Options struct {
	Logger *slog.Logger // of what happens; never of bodies or keys
	// Controls adds buttons to the page that pause models and cancel requests.
	Controls bool
	// RedisPassword is that of the Redis, if it needs one.
	RedisPassword string
	// Base sends the calls. Defaults to a transport of the gateway's own.
	Base http.RoundTripper
}

// New returns a gateway of a configuration that is complete.
func New(c *Config, o Options) (*Gateway, error) {
	clients, err := readClients(c.Clients)
	if err != nil {
		return nil, err
	}
	metrics := llmprom.New()
	g := &Gateway{log: o.Logger}
	g.live.Store(&live{c, clients})
	if c.Redis != "" {
		if g.redis, err = openRedis(c.Redis, o.RedisPassword); err != nil {
			return nil, err
		}
	}
	g.queues = &queues{
		manager: llmqueue.NewManager[struct{}, struct{}](metrics.Observe(), llmqueue.WithLogger(o.Logger), llmqueue.WithHistory(1000, time.Hour)),
		log:     o.Logger, redis: g.redis,
	}
	if err := g.queues.open(c); err != nil {
		return nil, errors.Join(err, g.Close(context.Background()))
	}
	if g.pages, err = newPages(g.queues.manager, metrics, o.Controls); err != nil {
		return nil, errors.Join(err, g.Close(context.Background()))
	}
	base := o.Base
	if base == nil {
		base = newTransport()
	}
	g.proxy = g.newProxy(base)
	return g, nil
}

// openRedis makes a client of a URL without a password.
func openRedis(url, password string) (redis.UniversalClient, error) {
	opts, err := redis.ParseURL(url)
	switch {
	case err != nil:
		return nil, errors.New("--redis: no address of a Redis, give one such as redis://127.0.0.1:6379/0")
	case opts.Password != "":
		return nil, errors.New("--redis: the address has a password: leave it out, and set it in LLMQ_REDIS_PASSWORD")
	}
	opts.Password = password
	return redis.NewClient(opts), nil
}

// newTransport is what calls the providers.
func newTransport() *http.Transport {
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.MaxIdleConns, t.MaxIdleConnsPerHost = 0, 256
	t.DisableCompression = true // answers are handed on as they come, and their usage is read
	return t
}

// buffers are those with which answers are copied.
type buffers struct{ sync.Pool }

func (b *buffers) Get() []byte {
	if p, ok := b.Pool.Get().(*[32 << 10]byte); ok {
		return p[:]
	}
	return new([32 << 10]byte)[:]
}
func (b *buffers) Put(p []byte) { b.Pool.Put((*[32 << 10]byte)(p)) }

func (g *Gateway) newProxy(base http.RoundTripper) *httputil.ReverseProxy {
	opts := []llmhttp.Option{llmhttp.WithEndpoints(g.queues.direct)}
	if g.live.Load().config.UnknownModels == "pass" {
		opts = append(opts, llmhttp.WithPassUnknown())
	}
	return &httputil.ReverseProxy{
		Rewrite:        func(*httputil.ProxyRequest) {}, // done by ServeHTTP, and by direct for each attempt
		Transport:      &fallback{llmhttp.NewQueueTransport(g.queues, attempts{base}, opts...), g.queues},
		BufferPool:     &buffers{},
		ModifyResponse: g.answered,
		ErrorHandler:   g.failed,
		ErrorLog:       slog.NewLogLogger(g.log.Handler(), slog.LevelDebug),
	}
}

// ServeHTTP serves a client.
func (g *Gateway) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if g.servePage(w, r) {
		return
	}
	live := g.live.Load()
	d := dialectOf(r)
	if d == nil {
		dialects[0].refuse(w, http.StatusNotFound, "no dialect has this path: OpenAI's begin with /v1, Anthropic's with /v1/messages, Gemini's with /v1beta, Ollama's with /api")
		return
	}
	a := newAnswer(w, live.config.ClientTimeout)
	a.extend()
	tenant := r.Header.Get(live.config.Clients.TenantHeader)
	if live.config.Clients.enabled() {
		who := identify(live.clients, r)
		if who == nil {
			d.refuse(a, http.StatusUnauthorized, "the key is none of the gateway's clients: send it as the SDK sends a provider's, or in X-LLMQ-Key")
			return
		}
		tenant = who.tenant
	} else if err := fromHere(r); err != nil {
		d.refuse(a, http.StatusForbidden, err.Error())
		return
	}
	up := g.queues.firstOf(d)
	if up == nil {
		d.refuse(a, http.StatusNotFound, "no upstream speaks "+d.name+": name one in the configuration")
		return
	}
	c := &call{dialect: d, path: r.URL.EscapedPath()}
	c.credentials = takeCredentials(r.Header, r.URL)
	if err := g.readBody(a, r, c, live.config); err != nil {
		var tooLarge *http.MaxBytesError
		if errors.As(err, &tooLarge) {
			d.refuse(a, http.StatusRequestEntityTooLarge, fmt.Sprintf("the request is larger than %d bytes, which max_request_bytes sets", tooLarge.Limit))
		} else {
			d.refuse(a, http.StatusRequestTimeout, "the request did not arrive whole, or not in time")
		}
		return
	}
	streams := live.config.KeepAlive > 0 && c.body != nil && c.streams(r)
	bound, err := deadline(r.Header, !streams)
	claims, wrong := claim(tenant, r.Header, !live.config.Clients.enabled() || live.config.Clients.TrustPriority)
	if err = cmp.Or(err, wrong); err != nil {
		d.refuse(a, http.StatusBadRequest, err.Error())
		return
	}
	if bound > 0 {
		c.until = time.Now().Add(bound)
	}
	for name := range r.Header {
		if strings.HasPrefix(name, "X-Llmq-") || name == http.CanonicalHeaderKey(live.config.Clients.TenantHeader) {
			delete(r.Header, name)
		}
	}
	delete(r.Header, "Accept-Encoding")
	if err := up.address(r, c.path, &c.credentials); err != nil {
		d.refuse(a, http.StatusBadRequest, "the path cannot be read")
		return
	}
	if streams {
		a.keepAlive(live.config.KeepAlive)
		defer a.hush()
	}
	ctx := context.WithValue(r.Context(), callKey{}, c)
	ctx = context.WithValue(ctx, answerKey{}, a)
	g.proxy.ServeHTTP(a, r.WithContext(llmhttp.WithClaim(ctx, claims)))
}

type answerKey struct{}

// readBody reads the body of what may be a call of a model, so that it can be sent again. Other
// bodies, such as those of files, pass through as they come.
func (g *Gateway) readBody(a *answer, r *http.Request, c *call, config *Config) error {
	if r.Body == nil || r.Body == http.NoBody {
		return nil
	}
	media, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if r.Method != http.MethodPost || strings.HasPrefix(media, "multipart/") || media == "application/octet-stream" {
		r.Body = &upload{r.Body, a.control, config.ClientTimeout}
		return nil
	}
	_ = a.control.SetReadDeadline(time.Now().Add(config.ClientTimeout)) // not every reader has deadlines
	reader := http.MaxBytesReader(a, r.Body, config.MaxRequestBytes)
	var body []byte
	var err error
	if n := r.ContentLength; n > 0 && n <= config.MaxRequestBytes {
		body = make([]byte, n)
		_, err = io.ReadFull(reader, body)
	} else {
		var b bytes.Buffer
		_, err = b.ReadFrom(reader)
		body = b.Bytes()
	}
	if err != nil {
		return err
	}
	if _, err := reader.Read(make([]byte, 1)); err != io.EOF { // net/http then notices a client that leaves
		return errors.Join(errors.New("the body goes on"), err)
	}
	_ = a.control.SetReadDeadline(time.Time{})
	c.body = body
	r.TransferEncoding = nil
	setBody(r, body)
	return nil
}

// upload is a body that passes through, each part of which must come in time.
type upload struct {
	io.ReadCloser
	control *http.ResponseController
	timeout time.Duration
}

func (u *upload) Read(p []byte) (int, error) {
	_ = u.control.SetReadDeadline(time.Now().Add(u.timeout))
	n, err := u.ReadCloser.Read(p)
	if err != nil {
		_ = u.control.SetReadDeadline(time.Time{})
	}
	return n, err
}

// answered looks at an answer before it is handed on.
func (g *Gateway) answered(res *http.Response) error {
	ctx := res.Request.Context()
	c, a := callOf(ctx), ctx.Value(answerKey{}).(*answer)
	began := a.hush()
	if !g.live.Load().config.Clients.enabled() {
		for name := range res.Header {
			if strings.HasPrefix(name, "Access-Control-") { // no page of another origin reads answers
				delete(res.Header, name)
			}
		}
	}
	if refused := llmhttp.Refusal(res); refused != nil {
		g.forecast(ctx, res.Header, c, refused)
	}
	if !began || res.StatusCode < 300 {
		return nil
	}
	body, err := io.ReadAll(io.LimitReader(res.Body, maxFailure))
	if err != nil {
		return err
	}
	_ = res.Body.Close()
	body = c.dialect.event(res.StatusCode, body)
	res.Body, res.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
	return nil
}

// forecast tells a client that is refused for now when its call would have started.
func (g *Gateway) forecast(ctx context.Context, h http.Header, c *call, refused error) {
	if c.route == nil || !errors.Is(refused, llmqueue.ErrQueueTimeout) && !errors.Is(refused, llmqueue.ErrQueueFull) {
		return
	}
	f, err := g.queues.manager.Forecast(context.WithoutCancel(ctx), llmqueue.Request[struct{}]{ModelID: c.route.queue})
	if err != nil {
		return
	}
	start := f.EstimatedStart
	if late := (*llmqueue.DeadlineError)(nil); errors.As(refused, &late) {
		start = late.EstimatedStart
	}
	h.Set(headerPosition, strconv.Itoa(f.Position))
	if !start.IsZero() {
		h.Set(headerStart, start.UTC().Format(time.RFC3339))
	}
}

// failed answers a call of which no answer came.
func (g *Gateway) failed(w http.ResponseWriter, r *http.Request, err error) {
	c, a := callOf(r.Context()), w.(*answer)
	if a.hush() && r.Context().Err() == nil {
		_, _ = a.Write(c.dialect.event(http.StatusBadGateway, c.dialect.errorBody(http.StatusBadGateway, "llmq: the upstream cannot be reached")))
		return
	}
	if r.Context().Err() != nil {
		panic(http.ErrAbortHandler) // the client is gone
	}
	if g.draining.Load() {
		c.dialect.refuse(a, http.StatusServiceUnavailable, "the gateway ends")
		return
	}
	if errors.Is(err, errLate) {
		c.dialect.refuse(a, http.StatusTooManyRequests, "no model could serve the call within its max_wait")
		return
	}
	if errors.Is(err, errNoJSON) {
		c.dialect.refuse(a, http.StatusBadRequest, errNoJSON.Error())
		return
	}
	g.log.Warn("upstream failed", "dialect", c.dialect.name, "path", c.path, "error", err)
	c.dialect.refuse(a, http.StatusBadGateway, "the upstream cannot be reached")
}

// Drain says that the gateway is about to end: its health is no longer well.
func (g *Gateway) Drain() { g.draining.Store(true) }

// Close ends the queues: what waits and runs is finished, as long as ctx allows.
func (g *Gateway) Close(ctx context.Context) error {
	err := g.queues.close(ctx)
	if g.redis != nil {
		err = errors.Join(err, g.redis.Close())
	}
	return err
}
