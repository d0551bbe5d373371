package batch

import (
	"errors"
	"fmt"
	"strconv"

	"github.com/llmqueue/llmqueue"
	"github.com/llmqueue/llmqueue/cmd/llmq/internal/caller"
	"github.com/llmqueue/llmqueue/cmd/llmq/internal/requests"
	"github.com/llmqueue/llmqueue/cmd/llmq/internal/results"
	"github.com/llmqueue/llmqueue/cmd/llmq/internal/schema"
)

// SchemaMismatch is the code of a failure: an answer that does not fit the schema.
const SchemaMismatch = "schema_mismatch"

// fits notes in a reply what it lacks to fit the schema.
func (r *run) fits(reply *caller.Reply, path string) {
	if r.Schema != nil {
		reply.Lacks = r.Schema.Lacks(path, reply.Body)
	}
}

// hasText refuses a request whose answer could not be checked.
func (c *Config) hasText(req *requests.Request) error {
	if c.Schema == nil || schema.HasText(req.Path) {
		return nil
	}
	return c.bad(req, fmt.Errorf("--schema cannot check answers of %s: where they have their text is not known", req.Path))
}

// reask asks a request once more whose answer does not fit, if it may be: as another request,
// before those that wait, because to the queue the first one was served. It reports whether it
// does.
func (r *run) reask(it *item, res llmqueue.Response[caller.Reply]) bool {
	if res.Result.Lacks == "" || it.reasks >= r.Reask || r.stopping.Load() != nil {
		return false
	}
	it.reasks++
	r.reasked.Add(1)
	it.sums(res)
	it.sent = schema.Reask(it.Request, res.Result.Body, res.Result.Lacks)
	line := strconv.FormatInt(it.Line, 10)
	again := llmqueue.Request[*item]{ID: fmt.Sprintf("%s again %d", line, it.reasks), ModelID: it.Model, Params: it, Estimate: r.estimate(it.sent), Priority: 1}
	before := res
	before.Attempts, before.Usage = 0, llmqueue.Usage{} // they are counted
	r.asking.Go(func() {
		res, err := r.manager.Submit(r.hard, again)
		if errors.Is(err, llmqueue.ErrRequestTooLarge) { // it stays with the answer that there is
			it.reasks = r.Reask
			res, err = before, nil
		}
		res.RequestID = line
		if err := r.conclude(res, err); err != nil {
			r.lose(err)
		}
	})
	return true
}

// sums takes in what the asking before used.
func (it *item) sums(res llmqueue.Response[caller.Reply]) {
	it.attempts += res.Attempts
	it.used.InputTokens += res.Usage.InputTokens
	it.used.OutputTokens += res.Usage.OutputTokens
	it.used.CachedInputTokens += res.Usage.CachedInputTokens
}

// mismatch is the failure of an answer that does not fit, nil of one that does.
func (r *run) mismatch(reply caller.Reply) *results.Error {
	if reply.Lacks == "" {
		return nil
	}
	r.mismatched.Add(1)
	return &results.Error{Code: SchemaMismatch, Message: "the answer does not fit the schema: " + reply.Lacks}
}
