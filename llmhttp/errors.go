package llmhttp

import (
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/llmqueue/llmqueue"
)

// ParseError reads from a failure what it means, how long to wait and which limits it
// names: from its status, its headers and its body, which may be cut off. It fills
// every field of the observation but SentAt and Usage. An answer below 400 whose body
// holds no error is served. now is when the answer arrived.
//
// A request is fatal for its own faults: it is malformed, too long, not allowed, or
// names a file or a conversation that is not there. What it is not to blame for belongs
// elsewhere: a key, an account or a model that is refused here, which is what a 401, 403
// or 404 means that does not say otherwise, and a 400 that says so.
//
// What a provider has named a quota, credit or spend limit by a code of its own is
// exhausted; a message that merely speaks of a quota is not. The delay is that of
// [ParseDelay], but until its renewal, if known, for an exhausted quota.
func ParseError(status int, h http.Header, body []byte, now time.Time) llmqueue.Observation {
	e := parseAPIError(body)
	if status < 400 && !e.found {
		return llmqueue.Observation{Outcome: llmqueue.OutcomeServed, Limits: ParseLimits(h, now)}
	}
	return e.observation(status, h, now)
}

// statuses gives the words of an error that comes in the body of an answer that began
// well the status that it would have had otherwise.
var statuses = map[string]int{
	"rate_limit_exceeded": 429, "rate_limit_error": 429, "rate_limited": 429, "RESOURCE_EXHAUSTED": 429,
	"ThrottlingException": 429, "throttlingException": 429, "slow_down": 429, "dynamic_request_limited": 429, "dynamic_token_limited": 429,
	"overloaded_error": 529, "server_is_overloaded": 503, "UNAVAILABLE": 503, "unavailable_error": 503,
	"ServiceUnavailableException": 503, "serviceUnavailableException": 503,
	"invalid_request_error": 400, "INVALID_ARGUMENT": 400, "FAILED_PRECONDITION": 400, "ValidationException": 400, "validationException": 400, "BadRequestError": 400,
	"invalid_prompt": 400, "authentication_error": 401, "AuthenticationError": 401, "invalid_api_key": 401, "UNAUTHENTICATED": 401, "billing_error": 402,
	"permission_error": 403, "PermissionDeniedError": 403, "PERMISSION_DENIED": 403, "AccessDeniedException": 403, "accessDeniedException": 403,
	"not_found_error": 404, "NotFoundError": 404, "NOT_FOUND": 404, "model_not_found": 404, "ResourceNotFoundException": 404, "resourceNotFoundException": 404,
	"request_too_large": 413,
}

// exhausted are the words for quota, credit and spend limits that are used up.
var exhausted = names("insufficient_quota", "credit_balance_exhausted", "organization_spend_limit_exceeded",
	"project_spend_limit_exceeded", "organization_usage_limit_exceeded", "enforced_spend_limit_reached", "billing_hard_limit_reached")

// Some have no word of their own, but a sentence.
var (
	spendLimit  = regexp.MustCompile(`^You have reached your specified API usage limits|^Your credit balance is too low`) // Anthropic, 400
	regained    = regexp.MustCompile(`You will regain access on (\d{4}-\d{2}-\d{2}) at (\d{2}:\d{2}) UTC`)
	tokensADay  = regexp.MustCompile(`(?i)too many tokens per day`)    // Bedrock, 429
	neverAnyUse = regexp.MustCompile(`\blimit: 0(?:[^\d.]|\.\D|\.?$)`) // Gemini, 429
)

// observation tells what e means in an answer with that status; 0 when the error came
// in the body of an answer that began well.
func (e *apiError) observation(status int, h http.Header, now time.Time) llmqueue.Observation {
	amazon, _, _ := strings.Cut(h.Get("X-Amzn-Errortype"), ":")
	e.say(amazon)
	o := llmqueue.Observation{Code: e.code(), Limits: e.limits(h, now)}
	inBody := status < 400
	if inBody {
		status = e.inferStatus()
	}
	o.Outcome = e.outcome(status, inBody, h, o.Limits)
	switch o.Outcome {
	case llmqueue.OutcomeQuotaExhausted:
		o.Delay = e.renewal(now)
	case llmqueue.OutcomeFatal, llmqueue.OutcomeElsewhere:
	default:
		o.Delay = e.delay(h, now)
		if o.Delay == 0 && (o.Outcome == llmqueue.OutcomeRateLimited || o.Outcome == llmqueue.OutcomeSlowDown) {
			o.Delay = resetDelay(h, o.Limits, now)
		}
	}
	return o
}

func (e *apiError) inferStatus() int {
	if e.status >= 400 && e.status < 600 {
		return e.status
	}
	for _, w := range e.words {
		if s := statuses[w]; s != 0 {
			return s
		}
	}
	return http.StatusInternalServerError // it is an error, and the request was good enough to begin with
}

func (e *apiError) says(words map[string]bool) bool {
	return slices.ContainsFunc(e.words, func(w string) bool { return words[w] })
}

var (
	tooFast     = names("slow_down", "dynamic_request_limited", "dynamic_token_limited")
	lacking     = names("ModelNotReadyException", "overloaded_error", "server_is_overloaded")
	rateLimited = names("rate_limit_error")
)

func (e *apiError) outcome(status int, inBody bool, h http.Header, limits []llmqueue.ObservedLimit) llmqueue.Outcome {
	hinted := h.Get("Retry-After") != "" || h.Get("Retry-After-Ms") != ""
	switch {
	case e.says(exhausted), spendLimit.MatchString(e.message):
		return llmqueue.OutcomeQuotaExhausted
	case e.own(status):
		return llmqueue.OutcomeFatal
	case status == http.StatusPaymentRequired:
		if hinted {
			return llmqueue.OutcomeRateLimited // OpenRouter: credits that come back by themselves
		}
		return llmqueue.OutcomeQuotaExhausted
	case status == http.StatusTooManyRequests:
		return e.tooMany(inBody, hinted, limits)
	case status == http.StatusServiceUnavailable, status == 529, e.says(lacking):
		return llmqueue.OutcomeOverloaded
	case (status < 500 || inBody) && e.elsewhere(status):
		return llmqueue.OutcomeElsewhere
	case passing(status):
		return llmqueue.OutcomeRetryable
	}
	return llmqueue.OutcomeFatal
}

// passing reports whether a failure with that status may pass: what SDKs retry.
func passing(status int) bool {
	switch status {
	case http.StatusRequestTimeout, http.StatusConflict, http.StatusTooEarly, http.StatusTooManyRequests:
		return true
	}
	return status >= 500
}

// tooMany tells apart what comes as 429.
func (e *apiError) tooMany(inBody, hinted bool, limits []llmqueue.ObservedLimit) llmqueue.Outcome {
	switch {
	case e.says(tooFast):
		return llmqueue.OutcomeSlowDown
	case e.says(lacking):
		return llmqueue.OutcomeOverloaded
	case tokensADay.MatchString(e.message):
		return llmqueue.OutcomeQuotaExhausted
	case e.google():
		switch {
		case e.never():
			return llmqueue.OutcomeElsewhere // the account has no part in that model
		case e.perDay():
			return llmqueue.OutcomeQuotaExhausted
		case e.retryDelay == "" && len(e.violations) == 0 && !hinted:
			return llmqueue.OutcomeOverloaded // Vertex has no quota, but no room either
		}
	case e.anthropic && e.says(rateLimited) && !inBody && !hinted:
		// Anthropic always says how long to wait, except when a spend limit is
		// reached. A gateway may have taken that header away: then a limit that is
		// used up tells.
		if !slices.ContainsFunc(limits, func(l llmqueue.ObservedLimit) bool { return l.Remaining == 0 && l.Reset > 0 }) {
			return llmqueue.OutcomeQuotaExhausted
		}
	}
	return llmqueue.OutcomeRateLimited
}

// renewal is how long an exhausted quota stays so, if that is known. Other advice to
// wait does not count: a daily quota has carried a delay of seconds.
func (e *apiError) renewal(now time.Time) time.Duration {
	if m := regained.FindStringSubmatch(e.message); m != nil {
		if at, err := time.Parse("2006-01-02 15:04", m[1]+" "+m[2]); err == nil {
			return sane(at.Sub(now))
		}
	}
	if e.perDay() {
		return untilPacificMidnight(now)
	}
	return 0
}

// limits are those of the headers, and of the body as far as it has any.
func (e *apiError) limits(h http.Header, now time.Time) []llmqueue.ObservedLimit {
	if len(e.headers) > 0 { // OpenRouter hands on a provider's headers so
		all := http.Header{}
		for k, v := range e.headers {
			all.Set(k, v)
		}
		maps.Copy(all, h)
		h = all
	}
	limits := ParseLimits(h, now)
	for _, v := range e.violations {
		if l, ok := v.limit(); ok {
			limits = tighten(limits, l)
		}
	}
	return limits
}

// code is the provider's own word for the error: the first that is not a number.
func (e *apiError) code() string {
	for _, w := range e.words {
		if strings.Trim(w, "0123456789") != "" {
			return w
		}
	}
	if len(e.words) > 0 {
		return e.words[0]
	}
	return ""
}

// untilPacificMidnight is how long a daily quota of Gemini's stays used up.
func untilPacificMidnight(now time.Time) time.Duration {
	pacific, err := time.LoadLocation("America/Los_Angeles")
	if err != nil {
		pacific = time.FixedZone("PST", -8*60*60) // without zone data: in summer an hour too late
	}
	y, m, d := now.In(pacific).Date()
	return time.Date(y, m, d+1, 0, 0, 0, 0, pacific).Sub(now)
}
