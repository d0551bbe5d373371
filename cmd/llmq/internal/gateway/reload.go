package gateway

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"

	"github.com/llmqueue/llmqueue"
)

// Reload takes over a configuration that was read again: limits, endpoints, models, keys and times.
// What waits keeps its place and what runs goes on. It returns what stays as it was until a
// restart; on an error that it cannot be taken over at all, everything does.
func (g *Gateway) Reload(c *Config) (later []string, err error) {
	clients, err := readClients(c.Clients)
	if err != nil {
		return nil, err
	}
	old := g.live.Load().config
	if old.Clients.enabled() && !c.Clients.enabled() {
		return nil, errors.New("clients: keys are no longer demanded: that takes a restart")
	}
	if later, err = g.queues.reload(c); err != nil {
		return nil, err
	}
	for what, changed := range map[string]bool{
		"listen": old.Listen != c.Listen, "redis": old.Redis != c.Redis,
		"unknown_models": old.UnknownModels != c.UnknownModels && (old.UnknownModels == "pass" || c.UnknownModels == "pass"),
	} {
		if changed {
			later = append(later, what)
		}
	}
	g.live.Store(&live{c, clients})
	slices.Sort(later)
	return later, nil
}

func (q *queues) reload(c *Config) (later []string, err error) {
	ups, first, err := upstreamsOf(c)
	if err != nil {
		return nil, err
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.config, q.ups, q.first = c, ups, first
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(c.Models)) {
		m := c.Models[name]
		d := ups[m.Endpoints[0].Upstream].dialect
		r := q.routes[routeKey{d, name}]
		if r == nil {
			_, err := q.add(d, name, m)
			errs = append(errs, err)
			continue
		}
		if !r.known {
			q.unknown--
		}
		changed, err := q.change(r, m)
		later, errs = append(later, changed...), append(errs, err)
	}
	for key, r := range q.routes {
		if m, ok := c.Models[key.model]; ok && ups[m.Endpoints[0].Upstream].dialect == key.dialect {
			continue
		}
		u := first[key.dialect]
		if r.known || u == nil {
			q.remove(key, r)
			continue
		}
		m := c.Default
		m.Endpoints = slices.Clone(m.Endpoints)
		m.Endpoints[0].Upstream = u.name
		changed, err := q.change(r, m)
		later, errs = append(later, changed...), append(errs, err)
	}
	return later, errors.Join(errs...)
}

// remove takes a model out: what waits in its queue is still served. Callers hold the lock.
func (q *queues) remove(key routeKey, r *route) {
	delete(q.routes, key)
	if !r.known {
		q.unknown--
	}
	q.drains.Go(func() { _ = q.manager.Unregister(context.Background(), r.queue) })
}

// change gives a model other settings, and returns those that take a restart. Callers hold the lock.
func (q *queues) change(r *route, m Model) (later []string, err error) {
	old := r.settings
	fixed := func(m Model) Model {
		m.Endpoint, m.Endpoints, m.Fallbacks, m.MaxWait = Endpoint{}, nil, nil, 0
		return m
	}
	if !reflect.DeepEqual(fixed(old), fixed(m)) {
		later = append(later, fmt.Sprintf("models.%s: its attempts, bounds and times of an attempt", r.model))
	}
	queue, ok := q.manager.Queue(r.queue)
	if !ok {
		return later, fmt.Errorf("models.%s: its queue is gone", r.model)
	}
	had := map[string]Endpoint{}
	for _, e := range old.Endpoints[1:] {
		had[e.name()] = e
	}
	var errs []error
	for i, e := range m.Endpoints {
		name, before := r.queue, old.Endpoints[0]
		if i > 0 {
			name = e.name()
			var there bool
			before, there = had[name]
			delete(had, name)
			if !there {
				opts, err := q.endpointOptions(r.model, e)
				if err == nil {
					err = queue.AddEndpoint(name, permitsOnly, opts...)
				}
				errs = append(errs, err)
				continue
			}
		}
		changed, err := q.limit(queue, name, before, e)
		if changed {
			later = append(later, fmt.Sprintf("models.%s: the limits at %s, which are learned or in Redis", r.model, e.Upstream))
		}
		errs = append(errs, err)
	}
	q.lead(r, m)
	for name := range had {
		q.drains.Go(func() { _ = queue.RemoveEndpoint(context.Background(), name) })
	}
	return later, errors.Join(errs...)
}

// limit sets the limits of an endpoint. It reports whether they have changed and take a restart.
func (q *queues) limit(queue *llmqueue.Queue[struct{}, struct{}], name string, before, after Endpoint) (later bool, err error) {
	limits, err := after.list()
	if err != nil {
		return false, err
	}
	was, _ := before.list()
	switch {
	case before.learns() != after.learns():
		return true, nil
	case reflect.DeepEqual(was, limits):
		return false, nil
	case q.redis != nil && !after.learns():
		return true, nil
	}
	return false, queue.SetEndpointLimits(name, limits...)
}
