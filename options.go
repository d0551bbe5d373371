package llmqueue

import (
	"context"
	"iter"
	"log/slog"
	"slices"
	"time"

	"github.com/go-playground/validator/v10"

	"github.com/llmqueue/llmqueue/accounting"
)

// Option configures a queue, or all queues of a manager. A queue's options
// override its manager's and the last of a kind wins; middleware, observers and
// shared limits add up.
type Option struct{ apply func(*settings) }

// WithLimits sets the queue's own limits: all of them in one call. A queue's replace its
// manager's. A second WithLimits in the same list of options, or WithUnlimited beside it,
// is ErrInvalidConfiguration from NewQueue, AddEndpoint or, for the manager's list too,
// Register: the first would be lost. A queue needs at least one limit, own or shared, or
// WithUnlimited.
func WithLimits(limits ...Limit) Option {
	limits = slices.Clone(limits)
	return Option{func(s *settings) { s.setLimits("WithLimits", limits, false) }}
}

// WithAccounting sets what the provider charges to its token limits, when a request arrives
// and when it has been answered: see package accounting, which has the known providers.
// It changes what limits hold; Response.Usage stays what was used. A policy that makes no
// sense is ErrInvalidConfiguration. Defaults to the estimate at the start and what was
// used in the end.
func WithAccounting(p accounting.Policy) Option {
	return Option{func(s *settings) { s.accounting = p }}
}

// WithLearnedLimits lets the provider's answers decide: limits that they state replace
// the configured ones upward too, and add to them. Without a configured limit of requests
// or tokens the queue sends one request at a time until an answer states some, or comes
// without any. Then it makes a few calls at once, and twice as many with each round of
// answers, because what is stated per minute may be enforced by the second. It needs
// something that calls Observe, such as the transport of package llmhttp. Without this
// option answers only lower configured limits, or tell how they are enforced within their period.
func WithLearnedLimits() Option { return Option{func(s *settings) { s.learn = true }} }

// WithWaitForQuota keeps requests waiting while the provider says that a quota (credit,
// a spend limit) is exhausted, until it is renewed: at the time that it states, else
// with one call an hour. Without it they fail with ErrQuotaExhausted, and so does
// Submit meanwhile. Resume ends the pause early.
func WithWaitForQuota() Option { return Option{func(s *settings) { s.keepOnQuota = true }} }

// WithoutDeadlineCheck takes requests whose deadline or MaxWait ends before their
// estimated start. They may yet make it, when others ahead of them leave the line or use
// less than they reserved. Without it such a request is refused at once with a
// *DeadlineError.
func WithoutDeadlineCheck() Option { return Option{func(s *settings) { s.noDeadlineCheck = true }} }

// WithUnlimited says that the queue has no limits of its own on purpose; the
// default bound of 256 running processors still applies. It replaces a manager's limits;
// beside WithLimits in the same list of options it is ErrInvalidConfiguration.
func WithUnlimited() Option {
	return Option{func(s *settings) { s.setLimits("WithUnlimited", nil, true) }}
}

// WithSharedLimits adds limits that several queues draw from. They are taken in
// the same all-or-nothing step as the queue's own.
func WithSharedLimits(limiter SharedLimiter) Option {
	return Option{func(s *settings) {
		if !slices.Contains(s.shared, limiter) {
			s.shared = append(slices.Clip(s.shared), limiter)
		}
	}}
}

// WithEstimator sets how many tokens a request reserves when its Estimate is zero.
// A zero usage means unknown. estimate is called at Submit, on the caller's
// goroutine, and must be safe for concurrent use. A P other than the queue's is
// ErrInvalidConfiguration. Defaults to Params' own EstimateUsage, if it has one.
func WithEstimator[P any](estimate func(Request[P]) Usage) Option {
	return Option{func(s *settings) { s.estimator = estimate }}
}

// WithRetry sets the retry policy. Defaults to 5 attempts with a backoff of 500 ms
// to 60 s, for marked errors only: see RetryPolicy.
func WithRetry(p RetryPolicy) Option {
	return Option{func(s *settings) { s.retry = p }}
}

// WithTimeout bounds one attempt. When it passes, the processor's context ends, and its slot
// stays taken until it returns. It is a passing fault: the request is tried again, at another
// endpoint first, and fails, with a ProcessingError that wraps context.DeadlineExceeded, when
// its attempts are used up or output was handed on. Defaults to 0, no bound.
func WithTimeout(d time.Duration) Option {
	return Option{func(s *settings) { s.timeout = d }}
}

// WithFirstByteTimeout bounds how long an attempt waits until its answer begins, and is like
// WithTimeout otherwise. The answer begins when something tells so: the transport of package
// llmhttp, Streamed, or Observe with OutcomeServed or Output. Where nothing does, it bounds the
// whole attempt. Defaults to 0, no bound.
func WithFirstByteTimeout(d time.Duration) Option {
	return Option{func(s *settings) { s.firstByte = d }}
}

// WithStallTimeout bounds how long nothing more may come of an answer that has begun, and is
// like WithTimeout otherwise. It needs something that tells of output as it comes: see
// WithFirstByteTimeout. Defaults to 0, no bound.
func WithStallTimeout(d time.Duration) Option {
	return Option{func(s *settings) { s.stall = d }}
}

// WithMaxPause bounds how long a provider may ask to pause: a longer pause counts as an
// exhausted quota. See WithWaitForQuota. Defaults to 1 hour; 0 means the default.
func WithMaxPause(d time.Duration) Option {
	return Option{func(s *settings) { s.maxPause = d }}
}

// WithHedge starts a second attempt of a request, at another endpoint if one has room, when
// nothing has come of the first for as long as the policy says. It takes only room that
// nothing that waits could use, within its share of calls, and all limits hold. Both are
// charged. The first to give output, or to succeed, wins; the context of the other ends. What
// counts as output is told as for WithFirstByteTimeout; where nothing tells, the first to
// succeed wins. What the other used is known when it has returned: QueueInfo.Usage has it,
// and the response only if that was in time. Processors must bear to run twice at once for
// one request. One that streams hands its chunks out with Emit, or calls Streamed before the
// first and stops when its context has ended. Permits are not hedged. Defaults to none.
func WithHedge(p HedgePolicy) Option {
	return Option{func(s *settings) { s.hedge = &p }}
}

// WithMaxQueued bounds how many requests may wait; one more is refused with
// ErrQueueFull. Requests waiting for a retry count but are never refused. Defaults
// to 0, no bound.
func WithMaxQueued(n int) Option {
	return Option{func(s *settings) { s.maxQueued = n }}
}

// WithHistory sets how many requests that ended stay readable through Status, Wait and
// Requests, and for how long. One that completed, that somebody waited for and whose id was
// assigned is forgotten at once: its caller has the response. Defaults to 10,000 and 1
// hour. n = 0 keeps none.
func WithHistory(n int, ttl time.Duration) Option {
	return Option{func(s *settings) { s.historySize, s.historyTTL = n, ttl }}
}

// WithMargin sets how much longer than its period a window is held, because the
// provider counts arrivals on its own clock. Defaults to 2% of the period, at most
// 250 ms. A negative d means the default.
func WithMargin(d time.Duration) Option {
	return Option{func(s *settings) { s.margin = d }}
}

// WithPriorUsage charges attempts that started before this process did, so that a
// restart does not exceed the limits. Order does not matter; times in the future
// count as now. Entries of the same instant that follow each other take the memory of
// one. It is read once, by NewQueue.
func WithPriorUsage(starts iter.Seq2[time.Time, Usage]) Option {
	return Option{func(s *settings) { s.prior = starts }}
}

// Attempt is what a middleware sees of the attempt it surrounds.
type Attempt struct {
	ModelID   string
	Endpoint  string // the one that the attempt goes to: see Queue.AddEndpoint
	RequestID string
	Number    int // 1 is the first
	Tenant    string
	Priority  int
	Estimate  Usage
	Metadata  map[string]string
	NoWait    bool // fire and forget; of a call that several share, the first request's
	Hedge     bool // a second one beside a slow one: see WithHedge
	CreatedAt time.Time
	// WaitsSince is since when the request waited for this attempt: CreatedAt, or when
	// the attempt before it ended.
	WaitsSince time.Time
	StartedAt  time.Time
}

// Middleware surrounds each attempt, on the processor's goroutine: it calls next
// with ctx or a context derived from it and returns next's error or another one,
// marked or not. Returning nil without having called next fails the request. The
// first middleware is the outermost. It may call next again, or several times at once
// (a hedged call): the result is that of the latest success. The attempt ends when the
// middleware returns; a next that still runs then holds no slot any more. Must be safe
// for concurrent use.
type Middleware func(ctx context.Context, a Attempt, next func(context.Context) error) error

// WithMiddleware adds middleware inside those added before.
func WithMiddleware(mw ...Middleware) Option {
	mw = slices.Clone(mw)
	return Option{func(s *settings) { s.middleware = append(slices.Clip(s.middleware), mw...) }}
}

// WithObserver adds a function that gets the queue's events, in order, on a
// goroutine of its own behind a buffer of 4,096. What does not fit is dropped and
// counted in QueueInfo.Dropped; a panic loses only its event.
func WithObserver(f func(Event)) Option {
	return Option{func(s *settings) { s.observers = append(slices.Clip(s.observers), f) }}
}

// WithOptions is opts as one option, for packages that bring several.
func WithOptions(opts ...Option) Option {
	opts = slices.Clone(opts)
	return Option{func(s *settings) {
		for _, o := range opts {
			if o.apply != nil {
				o.apply(s)
			}
		}
	}}
}

// WithMonitor hands attach the queue's Info while the queue is being made, so that gauges
// can be read from it, and calls what attach returns, unless nil, when Shutdown is done:
// also of a queue that a Manager made but did not take in. info is safe for concurrent use,
// also afterwards. A panic of attach is NewQueue's error.
func WithMonitor(attach func(info func() QueueInfo) (detach func())) Option {
	return Option{func(s *settings) { s.monitors = append(slices.Clip(s.monitors), attach) }}
}

// WithLogger logs one line per event, with the context of the request's Submit:
//
//   - at error level requests that fail;
//   - as warnings what holds requests up: retries, fallbacks, pauses, an endpoint
//     that is held out, and, once, that no limits or no usage are stated;
//   - at info level what ends that, and limits that change;
//   - at debug level the rest: requests that are queued, start, complete or are canceled,
//     and a limit in an answer that makes no sense.
//
// Ids, tenants, times, limits, token counts and the text of errors are logged, never
// params, results, metadata or keys: an error that quotes params is to be avoided, or
// logged without them by a handler of the logger. Defaults to none.
func WithLogger(l *slog.Logger) Option {
	return Option{func(s *settings) { s.logger = l }}
}

// WithValidator sets the validator for params and results, for custom tags.
// Defaults to a new one with required-struct checks enabled.
func WithValidator(v *validator.Validate) Option {
	return Option{func(s *settings) { s.validator, s.unvalidated = v, false }}
}

// WithoutValidation turns the validation of params and results off.
func WithoutValidation() Option {
	return Option{func(s *settings) { s.unvalidated = true }}
}

// WithShutdownGrace sets how long Shutdown waits, after its context ended, for
// processors whose context it canceled. Defaults to 1 second.
func WithShutdownGrace(d time.Duration) Option {
	return Option{func(s *settings) { s.grace = d }}
}

// WithMaxOutstanding bounds how many requests one SubmitAll has taken from its
// input and not yet yielded. Defaults to 4,096. Manager.SubmitAll uses the
// manager's own options.
func WithMaxOutstanding(n int) Option {
	return Option{func(s *settings) { s.outstanding = n }}
}

// WithFallback names the models of the same Manager that take over, in this order, what
// this one cannot serve in time: because calls fail at all its endpoints or their breakers
// are open, because its quota is exhausted (unless WithWaitForQuota keeps the request),
// because a pause of its provider is longer than RetryPolicy.MaxDelay or than the request's
// time, because its attempts or the retry budget are used up, because a timeout passed and no
// other endpoint can take it, because its MaxWait ended, or because there is no time left
// before its deadline. A request that no fallback can take waits here, if it has time.
// A fault of the request itself, and output that was streamed, stay with this model. A
// model that was unregistered, or refuses the request, is passed over; a fallback's own
// fallbacks come before the next one.
//
// The models may be registered in any order. While one of them, or of their own fallbacks,
// was never registered, Submit is refused with an error that is ErrInvalidConfiguration and
// ErrModelNotRegistered and names both models. Manager.Check tells it before.
//
// The first queue keeps the request's id: Status, Wait and Cancel work there.
// Response.ModelID is the model that answered, usage and attempts are those of all
// together, and a failure wraps the errors of the first and the last. Such a request is
// accepted, not refused, even when in the end no model takes it.
//
// A cycle of fallbacks is ErrInvalidConfiguration from Register, and so is a fallback
// of a queue that no Manager made.
func WithFallback(modelIDs ...string) Option {
	modelIDs = slices.Clone(modelIDs)
	return Option{func(s *settings) { s.fallback = modelIDs }}
}

// WithCoalescing lets requests with the same key share one call while it waits or runs.
// Each has its own id, context, MaxWait and response; the call goes on until it ends or
// the last of them has left, and is as urgent as the most urgent of them. It has the
// params, tenant, estimate and context values of the first, and no deadline of any of
// them. A failure is everybody's failure. The usage stands in one of the responses, so
// that a sum over responses counts it once; it is zero in the others. The result is the
// same value for all: nobody may change what it points to.
//
// An empty key shares nothing. key is called at Submit, on the caller's goroutine, and
// must be safe for concurrent use. A P other than the queue's is
// ErrInvalidConfiguration.
func WithCoalescing[P any](key func(Request[P]) string) Option {
	return Option{func(s *settings) { s.coalesce = key }}
}

// WithBackfill lets smaller requests pass the head of the line while it waits for
// room in the limits, as long as that does not put its start off: they use room that
// the head does not need when its turn comes, and leave it a free slot. Without it
// nothing is ever overtaken because it is large. Of what stands behind the head, the
// next 64 in order are looked at.
//
// It holds for what is known: a request that passes and then uses more than it reserved may
// put the head off, as any overrun does, and what others give back is no longer the head's
// alone. A request that passes is charged to its tenant's share, unless nothing else of
// that tenant waits. Nothing passes on an endpoint that has shared limits, nor while a breaker is not closed.
// Position and EstimatedStart are those of a line in which nothing passes.
func WithBackfill() Option { return Option{func(s *settings) { s.backfill = true }} }

// WithBreaker gives each endpoint a circuit breaker, made by the function, which gets
// the endpoint's name. While it is open nothing starts there: waiting requests go to
// another endpoint, to a fallback (WithFallback), or wait for the probe. Every error
// of a processor counts as a failure, and so do a timeout and a panic, except what is
// known to be no fault of the endpoint: an error marked Permanent or RateLimited, and what
// the provider was observed to refuse for the request itself, for a limit or for a quota.
// Without a breaker an endpoint at which nearly all calls fail is still passed over while
// another endpoint or a fallback can serve. Defaults to none.
func WithBreaker(make func(endpoint string) Breaker) Option {
	return Option{func(s *settings) { s.breaker = make }}
}
