package gateway

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"sync"

	"github.com/redis/go-redis/v9"

	"github.com/llmqueue/llmqueue"
	"github.com/llmqueue/llmqueue/accounting"
	"github.com/llmqueue/llmqueue/llmredis"
)

// mostUnknown bounds how many models get a queue that no file names.
const mostUnknown = 256

// route is how a model is called.
type route struct {
	queue     string // its name in the manager
	model     string
	dialect   *dialect
	known     bool // by the file
	settings  Model
	endpoints map[string]way // by their names in the queue
	fallbacks []string
}

// way is an endpoint of a queue.
type way struct {
	upstream *upstream
	model    string // its name there, if it has another one
}

// routeKey tells models of one name in two dialects apart.
type routeKey struct {
	dialect *dialect
	model   string
}

// queues are those of the models. Safe for concurrent use.
type queues struct {
	manager *llmqueue.Manager[struct{}, struct{}]
	log     *slog.Logger
	redis   redis.UniversalClient // nil without
	drains  sync.WaitGroup

	// mu guards the rest. Queues are made and changed while it is held, called never.
	mu       sync.RWMutex
	config   *Config
	ups      map[string]*upstream
	first    map[*dialect]*upstream
	routes   map[routeKey]*route
	unknown  int
	hands    bool // a model has fallbacks
	limiters []*llmredis.Limiter
}

// Acquire is the manager's, of the route that the call's dialect and model lead to.
func (q *queues) Acquire(ctx context.Context, claim llmqueue.Claim) (*llmqueue.Permit, error) {
	c := callOf(ctx)
	r, err := q.route(c.dialect, claim.ModelID)
	if err != nil {
		return nil, err
	}
	c.route = r
	claim.ModelID = r.queue
	claim.MaxWait = c.maxWait(r.settings.MaxWait)
	if first := len(r.fallbacks) > 0 && !c.handed; (first || c.left > 0) && claim.MaxWait > 0 {
		c.patience.bound(claim.MaxWait)
	}
	return q.manager.Acquire(ctx, claim)
}

// route finds the way to a model, and makes one to a model that is not known.
func (q *queues) route(d *dialect, model string) (*route, error) {
	if model == "" {
		return nil, fmt.Errorf("%w: the request names no model", llmqueue.ErrModelNotRegistered)
	}
	q.mu.RLock()
	r := q.routes[routeKey{d, model}]
	learn := q.config.UnknownModels == "learn"
	q.mu.RUnlock()
	if r != nil {
		return r, nil
	}
	if !learn {
		return nil, fmt.Errorf("%w: %q, it is none of the gateway's models", llmqueue.ErrModelNotRegistered, model)
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if r := q.routes[routeKey{d, model}]; r != nil {
		return r, nil
	}
	u := q.first[d]
	switch {
	case u == nil:
		return nil, fmt.Errorf("%w: %q, no upstream speaks %s", llmqueue.ErrModelNotRegistered, model, d.name)
	case q.unknown >= mostUnknown:
		return nil, fmt.Errorf("%w: %q, the gateway has %d models that its file does not name and takes no more: name it there", llmqueue.ErrModelNotRegistered, model, mostUnknown)
	}
	m := q.config.Default
	m.Endpoints = slices.Clone(m.Endpoints)
	m.Endpoints[0].Upstream = u.name
	r, err := q.add(d, model, m)
	if err != nil {
		return nil, err
	}
	q.unknown++
	return r, nil
}

// add makes a model's queue. Callers hold the lock.
func (q *queues) add(d *dialect, model string, m Model) (*route, error) {
	r := &route{queue: model, model: model, dialect: d}
	if _, taken := q.manager.Queue(model); taken {
		r.queue = model + " (" + d.name + ")"
	}
	opts, err := q.endpointOptions(model, m.Endpoints[0])
	if err != nil {
		return nil, err
	}
	opts = append(opts,
		llmqueue.WithRetry(llmqueue.RetryPolicy{MaxAttempts: m.Attempts}),
		llmqueue.WithMaxQueued(m.MaxQueued),
		llmqueue.WithTimeout(m.Timeout), llmqueue.WithFirstByteTimeout(m.FirstByteTimeout), llmqueue.WithStallTimeout(m.StallTimeout))
	if m.WaitForQuota {
		opts = append(opts, llmqueue.WithWaitForQuota())
	}
	queue, err := q.manager.Register(r.queue, permitsOnly, opts...)
	if err != nil {
		return nil, err
	}
	for _, e := range m.Endpoints[1:] {
		opts, err := q.endpointOptions(model, e)
		if err == nil {
			err = queue.AddEndpoint(e.name(), permitsOnly, opts...)
		}
		if err != nil {
			return nil, errors.Join(err, q.manager.Unregister(context.Background(), r.queue)) // empty: returns at once
		}
	}
	return q.lead(r, m), nil
}

// permitsOnly is the processor of a queue that gives permits.
func permitsOnly(context.Context, llmqueue.Request[struct{}]) (struct{}, error) {
	return struct{}{}, errors.New("llmq serve submits no requests")
}

// name is what a queue calls an endpoint other than its first.
func (e Endpoint) name() string {
	if e.Model != "" {
		return e.Upstream + "/" + e.Model
	}
	return e.Upstream
}

// endpointOptions are those of a model at an upstream.
func (q *queues) endpointOptions(model string, e Endpoint) ([]llmqueue.Option, error) {
	limits, err := e.list()
	if err != nil {
		return nil, err
	}
	policy, err := accounting.ByName(q.config.upstream(e.Upstream).Accounting)
	if err != nil {
		return nil, err
	}
	opts := []llmqueue.Option{llmqueue.WithAccounting(policy)}
	switch {
	case e.learns():
		return append(opts, llmqueue.WithLimits(limits...), llmqueue.WithLearnedLimits()), nil
	case q.redis != nil:
		limiter := llmredis.Options{Logger: q.log}.New(q.redis, "llmq:"+e.Upstream, limits...)
		q.limiters = append(q.limiters, limiter)
		return append(opts, llmqueue.WithSharedLimits(limiter)), nil
	}
	return append(opts, llmqueue.WithLimits(limits...)), nil
}

// lead makes a route anew, with where its calls go now. Callers hold the lock.
func (q *queues) lead(r *route, m Model) *route {
	r = &route{queue: r.queue, model: r.model, dialect: r.dialect, settings: m, endpoints: map[string]way{}}
	if _, r.known = q.config.Models[r.model]; r.known {
		r.fallbacks, _ = q.config.fallbacks(r.model) // checked by Complete
	}
	for i, e := range m.Endpoints {
		name := e.name()
		if i == 0 {
			name = r.queue
		}
		r.endpoints[name] = way{q.ups[e.Upstream], e.Model}
	}
	q.hands = q.hands || len(r.fallbacks) > 0
	q.routes[routeKey{r.dialect, r.model}] = r
	return r
}

// hand reports whether any model has another one that takes over.
func (q *queues) hand() bool {
	q.mu.RLock()
	defer q.mu.RUnlock()
	return q.hands
}

// upstreamsOf are a configuration's, and the first of each dialect.
func upstreamsOf(c *Config) (all map[string]*upstream, first map[*dialect]*upstream, err error) {
	all, first = map[string]*upstream{}, map[*dialect]*upstream{}
	for _, u := range c.Upstreams {
		up, err := newUpstream(u)
		if err != nil {
			return nil, nil, err
		}
		all[u.Name] = up
		if first[up.dialect] == nil {
			first[up.dialect] = up
		}
	}
	return all, first, nil
}

// firstOf is the upstream of a dialect for what is no call of a model; nil if there is none.
func (q *queues) firstOf(d *dialect) *upstream {
	q.mu.RLock()
	defer q.mu.RUnlock()
	return q.first[d]
}

// open makes the queues of a configuration.
func (q *queues) open(c *Config) (err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.config, q.routes = c, map[routeKey]*route{}
	if q.ups, q.first, err = upstreamsOf(c); err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(c.Models)) {
		m := c.Models[name]
		if _, err := q.add(q.ups[m.Endpoints[0].Upstream].dialect, name, m); err != nil {
			return err
		}
	}
	return nil
}

// close ends the queues: what waits and runs is finished, as long as ctx allows.
func (q *queues) close(ctx context.Context) error {
	err := q.manager.Shutdown(ctx)
	q.drains.Wait()
	for _, l := range q.limiters {
		err = errors.Join(err, l.Close(ctx))
	}
	return err
}

// way is an endpoint of a call's model as it is now, or else as it was when the call came.
func (q *queues) way(c *call, endpoint string) (way, bool) {
	q.mu.RLock()
	now := q.routes[routeKey{c.dialect, c.route.model}]
	q.mu.RUnlock()
	if now != nil {
		if w, ok := now.endpoints[endpoint]; ok {
			return w, true
		}
	}
	w, ok := c.route.endpoints[endpoint]
	return w, ok
}

// direct points a request of an attempt at its endpoint.
func (q *queues) direct(endpoint string, r *http.Request) error {
	c := callOf(r.Context())
	w, ok := q.way(c, endpoint)
	if !ok {
		return fmt.Errorf("the endpoint %s is gone", endpoint)
	}
	path := c.path
	if model := w.model; model != "" {
		renamed, body, err := c.dialect.rename(path, c.body, model)
		if err != nil {
			return err
		}
		if path = renamed; body != nil {
			setBody(r, body)
		}
	}
	return w.upstream.address(r, path, &c.credentials)
}
