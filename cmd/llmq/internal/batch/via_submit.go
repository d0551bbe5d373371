package batch

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/llmqueue/llmqueue/cmd/llmq/internal/caller"
	"github.com/llmqueue/llmqueue/cmd/llmq/internal/providerbatch"
	"github.com/llmqueue/llmqueue/cmd/llmq/internal/requests"
	"github.com/llmqueue/llmqueue/cmd/llmq/internal/results"
	"github.com/llmqueue/llmqueue/cmd/llmq/internal/spool"
)

// batchPaths are the paths that a batch can be of: OpenAI's by the reference of POST
// /v1/batches, and Anthropic's messages. Gemini's have the model in them.
var batchPaths = []string{"/v1/chat/completions", "/v1/responses", "/v1/embeddings", "/v1/completions", "/v1/moderations", messagesPath}

const (
	messagesPath    = "/v1/messages"
	generateContent = ":generateContent"
)

// client is the API that takes batches of a path.
func (r *run) client(path string) providerbatch.Client {
	switch {
	case path == messagesPath:
		return providerbatch.Anthropic(r.caller)
	case strings.HasSuffix(path, generateContent):
		return providerbatch.Gemini(r.caller)
	}
	return providerbatch.OpenAI(r.caller)
}

// batchPath is a request's path as a batch names it.
func batchPath(req *requests.Request) string {
	if strings.HasSuffix(req.Path, generateContent) {
		return req.Path
	}
	return "/v1/" + strings.TrimPrefix(strings.TrimPrefix(req.Path, "/v1"), "/")
}

// checkBatch refuses a request that no batch takes.
func (r *run) checkBatch(req *requests.Request) error {
	path := batchPath(req)
	if r.Via.Flex {
		return r.checkTier(req)
	}
	if !r.Via.On || slices.Contains(batchPaths, path) || strings.HasPrefix(path, "/v1beta/models/") && strings.HasSuffix(path, generateContent) {
		return nil
	}
	return r.bad(req, fmt.Errorf("%q cannot be in a batch: --via batch takes %s, /v1beta/models/…%s", req.Path, strings.Join(batchPaths, ", "), generateContent))
}

// spoolRequests writes what is to run into batches, each of one model and path as the
// provider wants it, and within its bounds.
func (r *run) spoolRequests() (err error) {
	type kind struct{ model, path string }
	filling := map[kind]*spool.Batch{}
	defer func() {
		for _, b := range filling { // those of an error: they were not sealed
			err = errors.Join(err, b.Abandon())
		}
	}()
	var bad error
	seal := func(k kind) error {
		b := filling[k]
		delete(filling, k)
		if err := b.Seal(); err != nil {
			return fail(CannotWrite, err)
		}
		r.batches.open = append(r.batches.open, b)
		return nil
	}
	broke := false
	err = r.read(func(req *requests.Request) bool {
		if r.halting.Err() != nil {
			return false
		}
		state, err := r.look(req)
		if err != nil {
			bad = err
			return false
		}
		runs, err := r.runs(req, state)
		if err != nil || !runs {
			bad = err
			return err == nil
		}
		if _, there, err := r.batches.ids.Get(req.ID); err != nil || there {
			bad = fail(CannotWrite, err)
			return err == nil
		}
		usd, ok := r.money.reserveShare(req, results.BatchShare)
		if !ok {
			broke = true
			return false
		}
		k := kind{req.Model, batchPath(req)}
		requests, bytes := r.client(k.path).Bounds()
		if b := filling[k]; b != nil && !b.Fits(req, requests, bytes) {
			if bad = seal(k); bad != nil {
				return false
			}
		}
		b := filling[k]
		if b == nil {
			if b, bad = spool.New(r.spoolDir(), r.caller.Host(), k.model, k.path); bad != nil {
				bad = fail(CannotWrite, bad)
				return false
			}
			filling[k] = b
		}
		bad = fail(CannotWrite, b.Add(req, usd))
		return bad == nil
	})
	if err = errors.Join(err, bad); err != nil {
		return err
	}
	if r.halting.Err() != nil {
		return nil
	}
	for k := range filling {
		if err := seal(k); err != nil {
			return err
		}
	}
	if broke {
		r.batches.overBudget = true
	}
	return nil
}

// submit uploads a batch's file and makes the provider's batch of it, or finds the one that
// an earlier try has made.
func (r *run) submit(b *spool.Batch) error {
	if b.File == "" {
		err := r.patiently(func(ctx context.Context) (err error) {
			b.File, err = r.client(b.Path).Upload(ctx, b)
			return err
		})
		if err == nil {
			err = fail(CannotWrite, b.Save())
		} else {
			err = r.refusedBatch(b, err)
		}
		if err != nil {
			return err
		}
	}
	return r.patiently(func(ctx context.Context) error {
		if !b.Sent.IsZero() {
			found, err := r.find(ctx, b)
			switch {
			case err != nil:
				return err
			case found != nil:
				return r.submitted(b, found)
			case r.Via.Cancel:
				return r.giveUp(b)
			}
		}
		b.Sent = time.Now()
		if err := b.Save(); err != nil {
			return fail(CannotWrite, err)
		}
		made, err := r.client(b.Path).Create(r.hard, b)
		if err != nil {
			return r.refusedBatch(b, err)
		}
		return r.submitted(b, made)
	})
}

// find finds the provider's batch of a submission whose answer never came; nil if there is
// none.
func (r *run) find(ctx context.Context, b *spool.Batch) (*providerbatch.Batch, error) {
	known := map[string]bool{}
	for _, other := range r.batches.open {
		known[other.ID] = true
	}
	for {
		found, err := r.client(b.Path).Find(ctx, b, known)
		if err != nil || found != nil || time.Since(b.Sent) >= settle {
			return found, err
		}
		if !r.wait(max(settle-time.Since(b.Sent), time.Millisecond)) {
			return nil, ctx.Err()
		}
	}
}

// giveUp forgets a batch that the provider never had.
func (r *run) giveUp(b *spool.Batch) error {
	r.batches.unfinished += int64(b.Requests)
	return r.forget(b)
}

// submitted notes the provider's id of a batch.
func (r *run) submitted(b *spool.Batch, made *providerbatch.Batch) error {
	b.ID = made.ID
	r.batches.flight.Add(int64(b.Requests)) // before anyone can see that it is noted
	if err := b.Save(); err != nil {
		return fail(CannotWrite, err)
	}
	r.Notice("%s: %d requests of %s are submitted", b.ID, b.Requests, b.Model)
	return nil
}

// refusedBatch forgets a batch that the provider will not have, so that its requests can be
// put right or run by calls.
func (r *run) refusedBatch(b *spool.Batch, err error) error {
	status := (*caller.StatusError)(nil)
	if errors.As(err, &status) && r.forGood(err) != nil {
		return errors.Join(r.forGood(err), b.Remove())
	}
	return err
}
