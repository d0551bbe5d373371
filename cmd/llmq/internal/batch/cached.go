package batch

import (
	"fmt"

	"github.com/llmqueue/llmqueue/cmd/llmq/internal/cache"
	"github.com/llmqueue/llmqueue/cmd/llmq/internal/caller"
	"github.com/llmqueue/llmqueue/cmd/llmq/internal/requests"
	"github.com/llmqueue/llmqueue/cmd/llmq/internal/results"
)

// openCache makes the cache's folder, if there is to be one.
func (r *run) openCache() error {
	if r.Cache == nil {
		return nil
	}
	if err := r.Cache.Prepare(); err != nil {
		return fail(BadInput, fmt.Errorf("--cache: %w", err))
	}
	return nil
}

// cached is the answer that the cache has to a request, if it fits the schema.
func (c *Config) cached(req *requests.Request) (a cache.Answer, ok bool) {
	if c.Cache == nil {
		return a, false
	}
	a, ok = c.Cache.Get(cache.Request{Path: req.Path, Model: req.Model, Body: req.Body})
	if ok && c.Schema != nil && c.Schema.Lacks(req.Path, a.Body) != "" {
		return a, false
	}
	return a, ok
}

// toCache keeps the answer to a request: not that of another model, nor to another wording, nor
// one that does not fit. A cache that cannot be written is told of once and left alone.
func (r *run) toCache(it *item, model string, reply caller.Reply) {
	if r.Cache == nil || model != it.Model || it.sent != nil || reply.Lacks != "" || r.cacheFull.Load() {
		return
	}
	err := r.Cache.Put(cache.Request{Path: it.Path, Model: it.Model, Body: it.Body}, cache.Answer{Status: reply.Status, RequestID: reply.RequestID, Body: reply.Body})
	if err != nil && r.cacheFull.CompareAndSwap(false, true) {
		r.Notice("%v: this run keeps no more answers there", err)
	}
}

// fromCache records the answer that the cache has to a request, if it has one.
func (r *run) fromCache(req *requests.Request) (found bool) {
	a, found := r.cached(req)
	if !found {
		return false
	}
	rec := &results.Record{
		CustomID: req.ID,
		Response: &results.Response{Status: a.Status, RequestID: a.RequestID, Body: a.Body},
		Run:      results.Run{Line: req.Line, Model: req.Model, FromCache: true, Hash: results.HashOf(req.Path, req.Body), Kept: req.Kept},
	}
	if err := r.record(rec); err != nil {
		r.lose(err)
	}
	return true
}
