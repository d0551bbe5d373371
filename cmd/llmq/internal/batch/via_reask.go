package batch

import (
	"encoding/json"
	"strconv"

	"github.com/llmqueue/llmqueue"
	"github.com/llmqueue/llmqueue/cmd/llmq/internal/providerbatch"
	"github.com/llmqueue/llmqueue/cmd/llmq/internal/requests"
	"github.com/llmqueue/llmqueue/cmd/llmq/internal/results"
	"github.com/llmqueue/llmqueue/cmd/llmq/internal/schema"
	"github.com/llmqueue/llmqueue/cmd/llmq/internal/spool"
	"github.com/llmqueue/llmqueue/llmhttp"
)

// misfit is an answer of a batch that does not fit the schema.
type misfit struct {
	i      int // of the batch
	answer json.RawMessage
	lacks  string
}

// misfits is what a result lacks to fit the schema, "" if it does or is no answer.
func (r *run) misfits(path string, l *providerbatch.Line) string {
	if r.Schema == nil || problemOf(path, l) != nil {
		return ""
	}
	return r.Schema.Lacks(path, l.Response.Body)
}

// reaskAll asks the requests once more, by calls, whose answers in a batch do not fit the
// schema, until all have ended. It is an error of the run's end if one has not: then the batch
// is not to be forgotten, so that the next run takes its results again, and asks.
func (r *run) reaskAll(b *spool.Batch, members []spool.Member, list []misfit) error {
	if len(list) == 0 {
		return nil
	}
	at := make(map[int]*misfit, len(list))
	for i := range list {
		at[list[i].i] = &list[i]
	}
	r.Notice("%s: %d answers do not fit the schema: they are asked once more, by calls", b.ID, len(list))
	if err := r.register(b.Model); err != nil {
		return fail(BadInput, err)
	}
	var bad error
	feed := func(yield func(llmqueue.Request[*item]) bool) {
		err := b.Bodies(func(i int, body []byte) bool {
			m := at[i]
			if m == nil {
				return r.halting.Err() == nil
			}
			it, err := r.askAgain(b, &members[i], body, m)
			if err != nil || it == nil {
				bad = err
				return err == nil
			}
			id := strconv.FormatInt(it.Line, 10)
			return r.flight.take(id, it) && yield(llmqueue.Request[*item]{ID: id, ModelID: it.Model, Params: it, Estimate: r.estimate(it.sent)})
		})
		if bad == nil {
			bad = fail(CannotWrite, err)
		}
	}
	for res, err := range r.manager.SubmitAll(r.hard, feed) {
		if err := r.conclude(res, err); err != nil {
			r.lose(err)
		}
	}
	r.asking.Wait()
	if bad != nil {
		return bad
	}
	return r.halting.Err()
}

// askAgain is one request that is asked once more, nil if an earlier run has its answer.
func (r *run) askAgain(b *spool.Batch, member *spool.Member, body []byte, m *misfit) (*item, error) {
	if recorded, err := r.recorded(member); recorded || err != nil {
		return nil, err
	}
	req := &requests.Request{Line: member.Line, ID: member.ID, Model: b.Model, Path: b.PathOf(member), Body: body, Kept: member.Kept}
	req.Estimate = llmqueue.Usage{InputTokens: member.Input, OutputTokens: member.Output}
	u := llmhttp.ParseUsage(m.answer)
	r.money.spend(b.Model, u, results.BatchShare)
	r.input.Add(u.InputTokens)
	r.output.Add(u.OutputTokens)
	r.attempts.Add(1)
	r.reasked.Add(1)
	return &item{Request: req, sent: schema.Reask(req, m.answer, m.lacks), reasks: 1, attempts: 1, used: u}, nil
}
