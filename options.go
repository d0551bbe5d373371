package llmqueue

import (
	"context"
	"fmt"
	"iter"
	"log/slog"
	"slices"
	"time"

	"github.com/go-playground/validator/v10"

	"github.com/llmqueue/llmqueue/accounting"
)

// Option configures a queue, or all queues of a manager. A queue's options
// override its manager's and the last of a kind wins; middleware, observers and
// shared limits add up, and limits stand once in a list (see WithLimits).
type Option struct{ apply func(*settings) }

// settings is what the options of one queue come to.
type settings struct {
	endpointSettings
	queueSettings
}

// endpointSettings is what holds for one endpoint: AddEndpoint takes these and no
// others.
type endpointSettings struct {
	limits     []Limit
	unlimited  bool
	shared     []SharedLimiter
	margin     time.Duration // negative: the default
	prior      iter.Seq2[time.Time, Usage]
	learn      bool
	breaker    func(endpoint string) Breaker
	accounting accounting.Policy
	// amounts is which of WithLimits and WithUnlimited the list at hand has; again is
	// that one came that contradicts it, in any list.
	amounts string
	again   string
}

// queueSettings is what holds for a whole queue.
type queueSettings struct {
	estimator   any // func(Request[P]) Usage
	coalesce    any // func(Request[P]) string
	retry       RetryPolicy
	timeout     time.Duration
	maxQueued   int
	historySize int
	historyTTL  time.Duration
	middleware  []Middleware
	observers   []func(Event)
	monitors    []func(func() QueueInfo) func()
	logger      *slog.Logger
	validator   *validator.Validate
	unvalidated bool
	hopeful     bool // no deadline check
	fallback    []string
	keepOnQuota bool
	backfill    bool
	grace       time.Duration
	outstanding int
}

// newSettings is what lists of options come to, where the later win: a manager's, and then
// those of its queue.
func newSettings(lists ...[]Option) settings {
	s := settings{
		endpointSettings: endpointSettings{margin: -1},
		queueSettings: queueSettings{
			historySize: 10_000, historyTTL: time.Hour,
			grace: time.Second, outstanding: 4096,
		},
	}
	for _, opts := range lists {
		s.amounts = ""
		for _, o := range opts {
			if o.apply != nil {
				o.apply(&s)
			}
		}
	}
	return s
}

// setLimits takes in WithLimits or WithUnlimited, whose name is option.
func (s *endpointSettings) setLimits(option string, limits []Limit, unlimited bool) {
	if s.amounts != "" && s.again == "" && !(unlimited && s.unlimited) {
		s.again = s.amounts + " and then " + option
	}
	s.amounts, s.limits, s.unlimited = option, limits, unlimited
}

// invalid is an ErrInvalidConfiguration that says what is wrong.
func invalid(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrInvalidConfiguration, fmt.Sprintf(format, args...))
}

func (s *endpointSettings) validate() error {
	if s.again != "" {
		return invalid("%s in one list of options, the first would be lost: put all limits into one WithLimits", s.again)
	}
	if err := validateLimits(s.limits); err != nil {
		return err
	}
	if len(s.limits) == 0 && len(s.shared) == 0 && !s.unlimited && !s.learn {
		return invalid("no limits, use WithLimits, WithSharedLimits, WithLearnedLimits or WithUnlimited")
	}
	if slices.Contains(s.shared, nil) {
		return invalid("WithSharedLimits got nil")
	}
	if err := s.accounting.Validate(); err != nil {
		return invalid("WithAccounting: %v", err)
	}
	return nil
}

func (s *queueSettings) validate() error {
	if err := s.retry.validate(); err != nil {
		return err
	}
	switch {
	case s.timeout < 0:
		return invalid("WithTimeout(%v), give a positive duration (0 means none)", s.timeout)
	case s.maxQueued < 0:
		return invalid("WithMaxQueued(%d), give 1 or more (0 means no bound)", s.maxQueued)
	case s.historySize < 0 || s.historySize > 0 && s.historyTTL <= 0:
		return invalid("WithHistory(%d, %v), give a size of 0 or more and a positive time", s.historySize, s.historyTTL)
	case s.grace < 0:
		return invalid("WithShutdownGrace(%v), give 0 or more", s.grace)
	case s.outstanding < 1:
		return invalid("WithMaxOutstanding(%d), give 1 or more", s.outstanding)
	}
	for _, mw := range s.middleware {
		if mw == nil {
			return invalid("WithMiddleware got nil")
		}
	}
	for _, o := range s.observers {
		if o == nil {
			return invalid("WithObserver got nil")
		}
	}
	for _, m := range s.monitors {
		if m == nil {
			return invalid("WithMonitor got nil")
		}
	}
	return nil
}

// WithLimits sets the queue's own limits: all of them in one call. A queue's replace its
// manager's. A second WithLimits in the same list of options, or WithUnlimited beside it,
// is ErrInvalidConfiguration from NewQueue, AddEndpoint or, for the manager's list too,
// Register: the first would be lost. A queue needs at least one limit, own or shared, or
// WithUnlimited.
func WithLimits(limits ...Limit) Option {
	limits = slices.Clone(limits)
	return Option{func(s *settings) { s.setLimits("WithLimits", limits, false) }}
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
func WithoutDeadlineCheck() Option { return Option{func(s *settings) { s.hopeful = true }} }

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

// WithTimeout bounds one attempt. When it passes, the request fails with a
// ProcessingError that wraps context.DeadlineExceeded, and the processor's context
// ends; its slot stays taken until it returns. Defaults to 0, no bound.
func WithTimeout(d time.Duration) Option {
	return Option{func(s *settings) { s.timeout = d }}
}

// WithMaxQueued bounds how many requests may wait; one more is refused with
// ErrQueueFull. Requests waiting for a retry count but are never refused. Defaults
// to 0, no bound.
func WithMaxQueued(n int) Option {
	return Option{func(s *settings) { s.maxQueued = n }}
}

// WithHistory sets how many finished requests stay readable through Status and
// Wait, and for how long. Defaults to 10,000 and 1 hour. n = 0 keeps none.
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
//   - as warnings what holds requests up: retries, fallbacks, pauses, a breaker that
//     opens, and, once, that no limits or no usage are stated;
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
