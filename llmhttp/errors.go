package llmhttp

import (
	"cmp"
	"maps"
	"net/http"
	"strings"
	"time"

	"github.com/llmqueue/llmqueue"
)

// ParseError reads from a failure what it means, how long to wait and which limits it
// names: from its status, its headers and its body, which may be cut off. It fills
// every field of the observation but SentAt and Usage. An answer below 400 whose body
// holds no error is served. now is when the answer arrived.
//
// A request is fatal for its own faults: it is malformed, too long, larger than the limit it
// meets or than the credit that is left, not allowed, or names a file or a conversation that
// is not there. What it is not to blame for belongs elsewhere: a key, an account or a model
// that is refused here, which is what a 401, 403 or 404 means that does not say otherwise,
// and a 400 that says so.
//
// A quota, a credit or a spend limit is exhausted only on proof: by the code of a provider
// that means it so, or in its words. A 429 that merely speaks of a quota, or says no wait, is
// rate limited. An error that a gateway quotes within its own counts as well: a 400, 500 or 502
// gives way to the status that the gateway was given, or that the words it was given have
// elsewhere. The delay is that of [ParseDelay], but until its renewal, if known, for an
// exhausted quota.
func ParseError(status int, h http.Header, body []byte, now time.Time) llmqueue.Observation {
	e := parseAPIError(body)
	from := origin{header: h}
	if status < 400 && !e.found {
		return llmqueue.Observation{Outcome: llmqueue.OutcomeServed, Limits: ParseLimits(h, now)}
	}
	return e.observation(status, from, now)
}

// observation tells what e means in an answer with that status; 0 when the error came
// in the body of an answer that began well.
func (e *apiError) observation(status int, from origin, now time.Time) llmqueue.Observation {
	h := from.header
	inBody := status < 400
	if inBody {
		status, h = e.inferStatus(), nil // they speak of when the answer began
	}
	status = e.statusBehind(status)
	h = e.handedOn(h)
	amazon, _, _ := strings.Cut(h.Get("X-Amzn-Errortype"), ":")
	e.say(ranks-1, amazon)
	o := llmqueue.Observation{Code: e.code(), Limits: e.limits(h, now)}
	f := evidence{e: e, status: status, inBody: inBody, header: h, limits: o.Limits, now: now, sentence: e.sentence()}
	f.of = recognize(from, &f)
	o.Outcome = f.outcome()
	switch o.Outcome {
	case llmqueue.OutcomeQuotaExhausted:
		o.Delay = f.renewal(now)
	case llmqueue.OutcomeFatal, llmqueue.OutcomeElsewhere:
	default:
		o.Delay = f.delay(now)
		if o.Delay == 0 && (o.Outcome == llmqueue.OutcomeRateLimited || o.Outcome == llmqueue.OutcomeSlowDown) {
			o.Delay = resetDelay(h, now)
		}
	}
	return o
}

// handedOn adds to an answer's headers those of a provider that a gateway repeats in the body.
func (e *apiError) handedOn(h http.Header) http.Header {
	if len(e.headers) == 0 {
		return h
	}
	all := e.headers.Clone()
	maps.Copy(all, h)
	return all
}

// limits are those of the headers, and of the body as far as it has any.
func (e *apiError) limits(h http.Header, now time.Time) []llmqueue.ObservedLimit {
	limits := ParseLimits(h, now)
	for ; e != nil; e = e.upstream {
		for _, q := range e.quotas {
			if l, ok := q.limit(); ok {
				limits = tighten(limits, l)
			}
		}
	}
	return limits
}

// inferStatus is the status that an error would have had that comes in the body of an answer
// that began well.
func (e *apiError) inferStatus() int {
	if status := e.statusBehind(e.status); status != 0 {
		return status
	}
	return cmp.Or(e.statusOfWords(), http.StatusInternalServerError) // it is an error, and the request was good enough to begin with
}

// statusOfWords is the status that the words have elsewhere; 0 when they tell of none.
func (e *apiError) statusOfWords() int {
	for w := range e.words {
		plain := plainWord(w)
		for _, s := range statuses {
			if likeAny(plain, s.words) {
				return s.status
			}
		}
	}
	return 0
}

// statusBehind is a status, or the one that a gateway was given and made a 400, a 500 or a 502 of. What it
// quotes may have words alone, as Anthropic's errors do.
func (e *apiError) statusBehind(status int) int {
	if up := e.upstream; up != nil {
		switch status {
		case 0, http.StatusBadRequest, http.StatusInternalServerError, http.StatusBadGateway:
			return cmp.Or(up.statusBehind(up.status), up.statusOfWords(), status)
		}
	}
	return status
}

// evidence is what is known of a failure when it is judged.
type evidence struct {
	e        *apiError
	of       *provider // nil: nobody that is known
	status   int
	inBody   bool // the error came in an answer that began well
	header   http.Header
	limits   []llmqueue.ObservedLimit
	now      time.Time
	sentence string
	plain    []string // the words, each as plainWord has it
}

// outcome judges a failure: by the first rule that fits of who speaks, then by the first of all
// those who follow no rules of their own, and in the end by the status.
func (f *evidence) outcome() llmqueue.Outcome {
	for w := range f.e.words {
		f.plain = append(f.plain, plainWord(w))
	}
	if f.of != nil {
		if o := f.judge(f.of.rules); o != "" {
			return o
		}
	}
	if o := f.judge(commonRules); o != "" {
		return o
	}
	switch {
	case f.status == http.StatusPaymentRequired:
		return llmqueue.OutcomeQuotaExhausted
	case f.status == http.StatusTooManyRequests:
		return llmqueue.OutcomeRateLimited
	case f.status == http.StatusServiceUnavailable, f.status == 529:
		return llmqueue.OutcomeOverloaded
	case (f.status < 500 || f.inBody) && f.elsewhere():
		return llmqueue.OutcomeElsewhere
	case passing(f.status):
		return llmqueue.OutcomeRetryable
	}
	return llmqueue.OutcomeFatal
}

// hinted reports whether the headers say how long to wait.
func (f *evidence) hinted() bool {
	return f.header.Get("Retry-After") != "" || f.header.Get("Retry-After-Ms") != ""
}

// closedRequest is the status by which nginx and others say that the call was given up.
const closedRequest = 499

// passing reports whether a failure with that status may pass: what SDKs retry.
func passing(status int) bool {
	switch status {
	case http.StatusRequestTimeout, http.StatusConflict, http.StatusFailedDependency, http.StatusTooEarly, http.StatusTooManyRequests, closedRequest:
		return true
	}
	return status >= 500
}

// elsewhere reports whether the key, the account or the model is refused.
func (f *evidence) elsewhere() bool {
	switch f.status {
	case http.StatusUnauthorized:
		return true
	case http.StatusForbidden, http.StatusNotFound:
		return !f.missesResource()
	}
	if f.says(refusedWords) || refusedKey.matches(f.sentence) || refusedModel.matches(f.sentence) {
		return true
	}
	return f.e.param == "model" && !required.matches(f.sentence)
}

// missesResource reports whether a failure speaks of something that the request names,
// such as a file.
func (f *evidence) missesResource() bool {
	switch {
	case missingWord.matchesAny(f.plain):
		return true
	case f.says(refusedWords) && f.status == http.StatusNotFound, ofTheModel.matches(f.sentence):
		return false
	case f.status == http.StatusNotFound && f.e.param != "" && f.e.param != "model" && f.e.param != "None":
		return true
	}
	return missing.matches(f.sentence)
}

// plainWord is a word in lower case, of letters and digits alone: every provider writes its
// words in its own way.
func plainWord(word string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9':
			return r
		case r >= 'A' && r <= 'Z':
			return r + 'a' - 'A'
		}
		return -1
	}, word)
}
