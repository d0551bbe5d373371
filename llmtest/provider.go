package llmtest

import (
	"net/http"
	"time"
)

// A Provider is whose protocol a server speaks, with the limits that it
// enforces and the provider's ways of enforcing them: see [OpenAI],
// [AzureOpenAI], [Anthropic], [Bedrock], [Cohere], [Gemini], [Groq], [Mistral] and
// [Ollama].
type Provider struct {
	name     string
	path     string // of the base URL that the provider's own SDKs want, such as "/v1"
	limits   []Limit
	strategy func(Limit) Limit // names the strategy of a limit without one; nil names TokenBucket
	options  []Option          // apply before the user's
	dialect  func(*Server) dialect
}

// String returns the provider's name.
func (p Provider) String() string { return p.name }

// A dialect is how a provider speaks: it reads requests and writes answers,
// errors and headers, and decides nothing. A new provider is a new dialect.
type dialect interface {
	// key returns the key that a request carries.
	key(r *http.Request) string

	// route finds what serves a request.
	route(r *http.Request) (route, *problem)

	// status returns the status of an answer for a reason. It is not asked for
	// problems that have one.
	status(reason) int

	// headers sets the headers of every answer to a request that reached the
	// limits.
	headers(h http.Header, t *ticket)

	// fail answers with an error.
	fail(w http.ResponseWriter, p *problem)
}

// A route is what serves a path: one of its fields is set.
type route struct {
	generate operation        // a request for an answer, which the limits count
	page     http.HandlerFunc // anything else, such as a list of models
}

// An operation reads a request's body: what it asks for, and in which format
// the answer goes out.
type operation func(r *http.Request, body []byte) (call, format, *problem)

// A format writes the answer to one request.
type format interface {
	// whole returns the body of a unary answer, to be marshalled as JSON.
	whole(a *answer) any

	// contentType returns the content type of a stream.
	contentType() string

	// begin, token, end and fail write a stream: what comes before the first
	// token, each token, what comes after the last, and an error after which
	// nothing comes.
	begin(a *answer, out *events)
	token(a *answer, out *events, word string)
	end(a *answer, out *events)
	fail(a *answer, out *events, p *problem)

	// failed returns the body of a unary answer with an error after a 200, or nil where
	// the provider is not known to do so.
	failed(a *answer, p *problem) any
}

// A format that is headed sets headers of its unary answers.
type headed interface {
	header(a *answer, h http.Header)
}

// An answer is what a format needs to know about an answer.
type answer struct {
	call   *call
	number int       // of the request: makes ids
	began  time.Time // when the request arrived
	text   string    // what was said so far; all of it for a unary answer
	tokens int64     // output tokens so far
	cut    bool      // the request's maximum cut it short
	cached int64     // input tokens that were cached before
	stored int64     // input tokens that are cached from now on
	timing timing
}

// A reason is why a request is not answered as usual, whatever the provider
// calls it.
type reason int

const (
	badRequest    reason = iota // it cannot be read, or lacks something: see message and param
	wrongKey                    // it does not carry the server's key
	unknownPath                 // nothing is served there
	unknownMethod               // something is served there, for another method
	rateLimited                 // it breaks a limit: see refusal
	tooLarge                    // it is larger than a limit: see refusal
	overloaded                  // the server has no capacity
	outOfQuota                  // the account has no money left
	spendLimited                // the account's spend limit is reached
	injected                    // the test wants this status
)

// A problem is an error, before a dialect puts it into words.
type problem struct {
	reason     reason
	status     int
	message    string
	param      string // which parameter is to blame, if one is
	model      string
	refusal    *refusal
	retryAfter time.Duration // 0 means that the answer does not say
	number     int           // of the request: makes ids
	at         time.Time
	chosen     bool // the test chose the status
	inside     bool // the answer carries it, rather than that it stands in its place
}

// usualStatus is the status that most providers answer for a reason.
func usualStatus(r reason) int {
	switch r {
	case wrongKey:
		return http.StatusUnauthorized
	case unknownPath:
		return http.StatusNotFound
	case unknownMethod:
		return http.StatusMethodNotAllowed
	case rateLimited, tooLarge, outOfQuota, spendLimited:
		return http.StatusTooManyRequests
	case overloaded:
		return http.StatusServiceUnavailable
	}
	return http.StatusBadRequest
}

// injectedMessage is the message of errors that a test asked for.
const injectedMessage = "llmtest: a fault was injected here."
