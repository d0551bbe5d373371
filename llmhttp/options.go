package llmhttp

import "net/http"

// Option configures a [Transport] or a [QueueTransport].
type Option struct{ apply func(*options) }

// options are what transports can be told.
type options struct {
	sdkRetries bool

	// The rest is for a QueueTransport.
	defaultModel string
	passUnknown  bool
	modelID      func(ModelCall) string
	endpoints    func(endpoint string, r *http.Request) error
	tokenizer    func(model, text string) int64
	headers      ClaimHeaders
	replay       int64
}

func (o *options) set(opts []Option) {
	o.replay = 4 << 20
	for _, opt := range opts {
		if opt.apply != nil {
			opt.apply(o)
		}
	}
}

// WithSDKRetries leaves retrying to the SDK as well. Defaults to the queue alone:
// answers after which an SDK might try again carry the response header
// X-Should-Retry: false, which the SDKs of OpenAI and Anthropic obey, so that attempts
// do not multiply and no slot is held by an SDK that sleeps. Those are failures that may
// pass, and successes, because a body that breaks off is one too. Where a connection
// fails before there is an answer, nothing can be said: turn the SDK's own retries off,
// with its WithMaxRetries(0), to leave these to the queue as well.
func WithSDKRetries() Option { return Option{func(o *options) { o.sdkRetries = true }} }

// WithDefaultModel lets calls of models that are not registered wait in the queue of modelID.
// Defaults to refusing them with 404, in the words of the provider. For a [QueueTransport].
func WithDefaultModel(modelID string) Option {
	return Option{func(o *options) { o.defaultModel = modelID }}
}

// WithPassUnknown sends calls of models that are not registered at once, in no queue, when there
// is no [WithDefaultModel]. Defaults to refusing them with 404. For a [QueueTransport].
func WithPassUnknown() Option { return Option{func(o *options) { o.passUnknown = true }} }

// WithModelID says in which queue a call waits when that is not named as the request names the
// model: "gpt-4o" for "gpt-4o-2024-08-06", say. f must be safe for concurrent use. Defaults to
// the name in the request. For a [QueueTransport].
func WithModelID(f func(c ModelCall) string) Option {
	return Option{func(o *options) { o.modelID = f }}
}

// WithEndpoints prepares each attempt for the endpoint that it goes to (see
// llmqueue.Queue.AddEndpoint): f sets the URL and the key in r, which is a copy that it may
// change, headers included; only the body must stay as it is. An error of f ends the call. f
// must be safe for concurrent use. Defaults to sending what the client has made. For a
// [QueueTransport].
func WithEndpoints(f func(endpoint string, r *http.Request) error) Option {
	return Option{func(o *options) { o.endpoints = f }}
}

// WithTokenizer counts the text of requests with a real tokenizer. f is called once a request, on
// the caller's goroutine, with all of its text; it must be safe for concurrent use. Defaults to
// llmqueue.EstimateTokens. For a [QueueTransport].
func WithTokenizer(f func(model, text string) int64) Option {
	return Option{func(o *options) { o.tokenizer = f }}
}

// WithClaimHeaders takes a call's claim from headers of its request, which are then taken off.
// They win over [WithClaim]. Defaults to none. For a [QueueTransport].
func WithClaimHeaders(h ClaimHeaders) Option { return Option{func(o *options) { o.headers = h }} }

// WithReplayLimit bounds, in bytes, the copy of a request's body that is kept to send it again,
// where the request has no GetBody, and the part of a whole answer that is read before it is
// handed on. What is longer is sent once, or handed on as it comes: a failure after that is the
// caller's. Defaults to 4 MiB; below 0 counts as 0. For a [QueueTransport].
func WithReplayLimit(bytes int64) Option {
	return Option{func(o *options) { o.replay = max(bytes, 0) }}
}
