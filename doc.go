// Package llmqueue stands between a service and the LLM providers it calls.
//
// Each model has its own [Queue]. A request waits in it until the model's limits
// (requests, tokens, concurrency) let it start, runs in your own typed [Processor],
// and comes back typed:
//
//	q, err := llmqueue.NewQueue("gpt-5-mini", askModel,
//		llmqueue.WithLimits(llmqueue.RPM(500), llmqueue.TPM(200_000), llmqueue.Concurrent(32)))
//	answer, err := q.Do(ctx, Question{Text: "Why is the sky blue?"})
//
// [Queue.Do] is the shortest way. [Queue.Submit] takes a [Request] with an id, a
// priority, a tenant, a token estimate or a bound on the wait, and returns a
// [Response]; with NoWait it returns at once, and [Queue.Wait] or [Queue.Status] look
// the answer up later. [Queue.SubmitAll] runs any number of requests in constant
// memory. [Stream] gives an answer in chunks, as its processor hands them out with [Emit], to a
// loop that may be left at any time. A [Manager] holds the queues of several models.
//
// Callers who make the call themselves ask for a [Permit] instead: [Queue.Call] runs a
// function of theirs under one, and [Queue.Acquire] hands it out. It waits in the same line.
//
// # Limits
//
// A request reserves in all limits of its queue or in none, in one step; at no start
// do the known charges of any window exceed its limit, and what there is room for
// starts at once. Tokens are reserved by estimate (see [Request].Estimate,
// [WithEstimator], [UsageEstimator]) and settled when the attempt reports what it used
// ([ReportUsage], [UsageReporter], [Queue.UpdateUsage]). Limits slide; a daily one may
// reset at midnight ([Limit.Daily]), and [Limit.WithBurst] paces starts for servers that
// count in slices of a second. [SharedLimits] are drawn from by several queues.
//
// # Order
//
// Higher priority starts first. Within a priority, tenants get equal shares; within a
// tenant, first come is first served. A large request is never overtaken because it is
// large.
//
// # Errors and retries
//
// An error fails its request unless the processor marks it: [Retryable] for a passing
// fault, [Elsewhere] for a fault of the endpoint, which another one does not have, and
// [RateLimited] when the provider says slow down: the endpoint pauses, and the request waits
// without using up an attempt. Broken connections need no mark.
// A failed request returns its response and a non-nil error; all errors answer
// errors.Is and errors.As, see the Err variables, [ProcessingError] and [PanicError].
//
// With the transport of package llmhttp in the SDK's http.Client no error needs a mark:
// the queue is told what the provider says, learns its limits ([WithLearnedLimits]), and
// takes usage from the answers. [Observe] is the same for other protocols.
//
// # Going on
//
// A model may have several endpoints, each with limits of its own ([Queue.AddEndpoint]), and
// other models that take over what it cannot serve in time ([WithFallback]). An endpoint at
// which calls fail is passed over, but for a probe now and then; a circuit breaker
// ([WithBreaker]) adds rules of your own. Timeouts ([WithTimeout], [WithFirstByteTimeout],
// [WithStallTimeout]) lead to another attempt, and [WithHedge] starts one beside a slow one. Identical requests may share a call ([WithCoalescing]). Package
// plan says how long a load will take.
//
// # The end
//
// Every accepted request ends exactly once: completed, failed or canceled. A processor
// that panics fails its own request only. [Queue.Shutdown] finishes what was accepted,
// or gives it back with [ErrQueueClosed] when its context ends first, and leaves no
// goroutine behind.
//
// # Testing
//
// Time is the standard library's, so a test inside a testing/synctest bubble runs a day
// of limits in milliseconds. Package llmtest has fake processors and a provider that
// really enforces limits.
package llmqueue
