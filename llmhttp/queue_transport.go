package llmhttp

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/llmqueue/llmqueue"
)

// QueueTransport is an [http.RoundTripper] whose calls wait in their model's queue: put it into
// the http.Client of any SDK or agent framework, and nothing else changes. Make one with
// [NewQueueTransport]. Safe for concurrent use.
//
// A call is a POST that asks a model, which its body or its path names: see [ParseRequest]. It
// takes a permit of that model's queue, with an estimate of its tokens (the output is the
// request's own bound, else the mean of the model's answers so far), waits there on its caller's
// goroutine, and goes out through a [Transport]. It is settled when its answer was read to the
// end, was closed, or its context ended: whoever does none of these keeps a slot. What asks no
// model passes, and so does what is called within an attempt of a queue, which is queued already.
// One that names no model counts as one of a model that is not registered; with a single Queue it
// is that queue's. As with every permit, llmqueue.WithFallback and middleware do not apply.
//
// What the queue tries again is sent again, up to the queue's retry policy. A whole answer is read
// before it is handed on, so that one which breaks is tried again as well. A stream is handed on
// as it comes, from its first part on: one that breaks or fails before it is tried again, after it
// not. The body of a request is had again from its GetBody, as the SDKs and net/http set it; of
// one without, a copy is kept, up to [WithReplayLimit]. A longer one is sent once.
//
// When a call fails in the end, its caller gets what the provider said last. When the queue refuses
// it, its caller gets a response as the provider would refuse it, with the status of [StatusOf],
// so that an SDK makes its own error of it; [Refusal] has the queue's error. When the caller's
// context ends, it gets that error.
//
// The Timeout of an [http.Client] includes the wait. Leave it at zero, and bound what each attempt
// may take with llmqueue.WithTimeout, the wait with a Claim's MaxWait, and both together with the
// context. An SDK that has a timeout of its own for a request needs the same.
type QueueTransport struct {
	acquirer llmqueue.Acquirer
	sends    *Transport
	options  options
	outputs  outputMeans
}

// NewQueueTransport returns a transport whose calls wait in the queues of a, which is a Manager or
// a Queue, and go out through base; nil means what it means to [NewTransport].
func NewQueueTransport(a llmqueue.Acquirer, base http.RoundTripper, opts ...Option) *QueueTransport {
	t := &QueueTransport{acquirer: a}
	t.options.set(opts)
	if observes, ok := base.(*Transport); ok {
		base = observes.next() // no answer is observed twice
	}
	t.sends = &Transport{base: beneath(base), sdkRetries: t.options.sdkRetries}
	return t
}

// CloseIdleConnections does so in the transport beneath: http.Client asks for it.
func (t *QueueTransport) CloseIdleConnections() { t.sends.CloseIdleConnections() }

// RoundTrip waits for a permit and makes the call.
func (t *QueueTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Method != http.MethodPost || llmqueue.InAttempt(r.Context()) {
		return t.sends.RoundTrip(r)
	}
	c := &call{transport: t, request: r}
	if err := c.read(); err != nil {
		c.body.close()
		return nil, fmt.Errorf("llmhttp: read the request's body: %w", err)
	}
	if !c.Asks {
		return t.pass(c)
	}
	claim, err := t.claim(c)
	if err == nil {
		c.permit, err = t.acquire(c, claim)
	}
	switch {
	case err == nil:
		return c.make()
	case errors.Is(err, llmqueue.ErrModelNotRegistered) && t.options.passUnknown:
		return t.pass(c)
	}
	c.body.close()
	return c.refused(err)
}

// pass sends a request that waits in no queue.
func (t *QueueTransport) pass(c *call) (*http.Response, error) {
	r, err := c.attempt(c.request.Context())
	if err != nil {
		return nil, err
	}
	return t.sends.RoundTrip(r)
}

// claim is what the call claims.
func (t *QueueTransport) claim(c *call) (Claim, error) {
	claim, err := t.options.headers.claim(c.request)
	if err != nil {
		return claim, err
	}
	if claim.ModelID == "" {
		claim.ModelID = c.Model
		if t.options.modelID != nil {
			claim.ModelID = t.options.modelID(c.ModelCall)
		}
	}
	c.modelID = claim.ModelID
	if claim.Estimate == (llmqueue.Usage{}) && c.InputTokens > 0 {
		claim.Estimate.InputTokens = c.InputTokens
		claim.Estimate.OutputTokens = c.MaxOutputTokens
		if c.MaxOutputTokens == 0 && !c.NoOutput {
			claim.Estimate.OutputTokens, c.guessed = t.outputs.of(c.modelID), true
		}
	}
	return claim, nil
}

// acquire waits for leave to make the call.
func (t *QueueTransport) acquire(c *call, claim Claim) (*llmqueue.Permit, error) {
	ctx := c.request.Context()
	p, err := t.acquirer.Acquire(ctx, claim)
	if t.options.defaultModel != "" && errors.Is(err, llmqueue.ErrModelNotRegistered) {
		claim.ModelID, c.modelID = t.options.defaultModel, t.options.defaultModel
		p, err = t.acquirer.Acquire(ctx, claim)
	}
	if c.guessed && errors.Is(err, llmqueue.ErrRequestTooLarge) { // nothing is refused for a guess
		claim.Estimate.OutputTokens = 0
		p, err = t.acquirer.Acquire(ctx, claim)
	}
	return p, err
}

// call is a request on its way through the queue.
type call struct {
	transport *QueueTransport
	request   *http.Request
	body      requestBody
	permit    *llmqueue.Permit
	modelID   string // whose queue it waits in
	guessed   bool   // the estimate's output is no bound
	ModelCall
}

// make makes attempts until the request has ended.
func (c *call) make() (*http.Response, error) {
	for {
		res, err := c.try()
		if err != llmqueue.ErrTryAgain {
			return res, err
		}
		if err := c.permit.Again(c.request.Context()); err != nil {
			return c.refused(err)
		}
	}
}

// try makes one attempt. It returns what the caller gets, or ErrTryAgain.
func (c *call) try() (*http.Response, error) {
	ctx := c.permit.Context()
	r, err := c.attempt(ctx)
	if err == nil && c.transport.options.endpoints != nil {
		if err = c.transport.options.endpoints(c.permit.Endpoint(), r); err != nil && r.Body != nil {
			_ = r.Body.Close()
		}
	}
	if err != nil {
		return nil, c.permit.Done(llmqueue.Permanent(err))
	}
	res, err := c.transport.sends.RoundTrip(r)
	if err != nil {
		return nil, c.done(ctx, err)
	}
	res.Request = c.request
	a := &answerBody{call: c, ctx: ctx, src: res.Body}
	switch {
	case res.StatusCode == http.StatusSwitchingProtocols:
		return res, c.done(ctx, nil)
	case res.StatusCode >= 400:
		a.failure = statusError(res.StatusCode)
		err = a.whole(res.ContentLength)
	case c.handsOn(res.Header):
		err = a.begin()
	default:
		err = a.whole(res.ContentLength)
	}
	if err == llmqueue.ErrTryAgain {
		_ = a.src.Close()
		return nil, err
	}
	res.Body = a
	return res, nil
}

// done ends an attempt. One whose body was sent once is never tried again.
func (c *call) done(ctx context.Context, err error) error {
	if !c.body.repeats() {
		if err == nil && llmqueue.OutcomeOf(ctx, nil) != llmqueue.OutcomeServed {
			err = errBroke
		}
		if err != nil {
			err = llmqueue.Permanent(fmt.Errorf("%w (not tried again: its body is longer than WithReplayLimit and has no GetBody)", err))
		}
	}
	used := llmqueue.Observed(ctx).Usage.OutputTokens
	if err = c.permit.Done(err); err == nil {
		c.transport.outputs.add(c.modelID, used)
	}
	return err
}

var errBroke = errors.New("the answer broke off or carried an error")

// statusError is an answer that is a failure.
type statusError int

func (e statusError) Error() string {
	return fmt.Sprintf("llmhttp: the provider answered %d %s", int(e), http.StatusText(int(e)))
}

// refused is what the caller gets that the queue refused.
func (c *call) refused(err error) (*http.Response, error) {
	if c.request.Context().Err() != nil {
		return nil, err
	}
	return refusal(c.request, err, c.transport.options.sdkRetries), nil
}
