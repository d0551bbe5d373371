package llmtest

import (
	"fmt"
	"net/http"
	"strings"
	"time"
)

// Bedrock is a provider that speaks Amazon Bedrock's runtime: POST
// /model/MODEL/converse, /model/MODEL/converse-stream, whose stream is of binary
// frames (application/vnd.amazon.eventstream), and /model/MODEL/invoke and
// /model/MODEL/invoke-with-response-stream with Anthropic's messages in them. The
// model of the limits is the one in the path. It differs from [OpenAI] in that
//
//   - there are no rate limit headers and no Retry-After: a refusal is a
//     ThrottlingException, which says whether of requests or of tokens;
//   - the exception's name stands in the header X-Amzn-Errortype, and the body is
//     only {"message":…};
//   - a server without capacity answers ServiceUnavailableException, 503;
//   - the part of a prompt up to its last cachePoint is cached for five minutes if
//     it has 1,024 tokens at least.
//
// Input and maxTokens are reserved when a request arrives and settled when the
// answer ends, with a burndown of 1: see [WithBurndown]. Both are documented by
// Amazon (docs.aws.amazon.com/bedrock/latest/userguide/quotas-token-burndown.html).
// A request without maxTokens reserves no output; the real service reserves the
// most that its model can write. How Bedrock enforces a minute is not published:
// here it is a sliding window, the strictest way, unless a limit says otherwise.
//
// Signatures are not checked. [WithKey] is the access key's ID, or a bearer token.
func Bedrock(limits ...Limit) Provider {
	return Provider{
		name:     "Bedrock",
		limits:   limits,
		strategy: func(l Limit) Limit { return l.By(SlidingWindow) },
		options:  []Option{WithBurndown(1)},
		dialect:  func(s *Server) dialect { return bedrock{s} },
	}
}

type bedrock struct{ *Server }

// key returns the access key's ID of a signature of version 4, or the bearer token.
func (bedrock) key(r *http.Request) string {
	_, credential, ok := strings.Cut(r.Header.Get("Authorization"), "Credential=")
	if !ok {
		return bearer(r)
	}
	id, _, _ := strings.Cut(credential, "/")
	return id
}

func (d bedrock) route(r *http.Request) (route, *problem) {
	path, ok := strings.CutPrefix(r.URL.Path, "/model/")
	slash := strings.LastIndexByte(path, '/') // a model may be an ARN, which has slashes
	if !ok || slash < 1 {
		return route{}, notServed(r)
	}
	model, op := path[:slash], path[slash+1:]
	switch op {
	case "converse", "converse-stream":
		return route{generate: readConverse(model, op == "converse-stream")}, method(r, http.MethodPost)
	case "invoke", "invoke-with-response-stream":
		return route{generate: readInvoke(model, op != "invoke")}, method(r, http.MethodPost)
	}
	return route{}, notServed(r)
}

// status: Bedrock answers a wrong key with 403 and a used up quota of the account
// with 400.
func (bedrock) status(r reason) int {
	switch r {
	case wrongKey:
		return http.StatusForbidden
	case outOfQuota, spendLimited:
		return http.StatusBadRequest
	}
	return usualStatus(r)
}

func (bedrock) headers(h http.Header, t *ticket) {
	h.Set("X-Amzn-Requestid", fmt.Sprintf("00000000-0000-4000-8000-%012x", t.arrival))
}

func (bedrock) fail(w http.ResponseWriter, p *problem) {
	w.Header().Set("X-Amzn-Errortype", bedrockException(p))
	writeJSON(w, p.status, bedrockErrorOf(p))
}

type bedrockError struct {
	Message string `json:"message"`
}

// bedrockException names a problem. Amazon documents these exceptions with their
// statuses (API_runtime_Converse.html and common errors); those of a fault follow
// from its status.
func bedrockException(p *problem) string {
	switch p.reason {
	case wrongKey:
		return "UnrecognizedClientException"
	case unknownPath, unknownMethod:
		return "UnknownOperationException"
	case spendLimited, outOfQuota:
		return "ServiceQuotaExceededException"
	case overloaded:
		if p.status == http.StatusTooManyRequests {
			return "ModelNotReadyException"
		}
	}
	switch p.status {
	case http.StatusForbidden:
		return "AccessDeniedException"
	case http.StatusNotFound:
		return "ResourceNotFoundException"
	case http.StatusRequestTimeout:
		return "ModelTimeoutException"
	case http.StatusFailedDependency:
		return "ModelErrorException"
	case http.StatusTooManyRequests:
		return "ThrottlingException"
	case http.StatusServiceUnavailable:
		return "ServiceUnavailableException"
	}
	if p.status >= 500 {
		return "InternalServerException"
	}
	return "ValidationException"
}

// bedrockErrorOf puts a problem into Bedrock's words, as seen in the wild.
func bedrockErrorOf(p *problem) bedrockError {
	switch p.reason {
	case wrongKey:
		return bedrockError{"The security token included in the request is invalid."}
	case rateLimited, tooLarge:
		what := "requests"
		if limitType(p.refusal.limit) == "tokens" {
			what = "tokens"
		}
		if p.refusal.limit.Period == day {
			what += " per day"
		}
		return bedrockError{"Too many " + what + ", please wait before trying again."}
	case overloaded:
		if p.status == http.StatusTooManyRequests {
			return bedrockError{"Model is not ready for inference. Please wait and try your request again."}
		}
		return bedrockError{"Bedrock is unable to process your request."}
	case outOfQuota, spendLimited:
		return bedrockError{"Your request exceeds the service quota for your account."}
	case injected:
		return bedrockError{injectedMessage}
	}
	return bedrockError{p.message}
}

// streamException names an exception within a stream: Amazon documents these five
// (API_runtime_ConverseStreamOutput.html).
func streamException(p *problem) string {
	switch p.status {
	case http.StatusTooManyRequests:
		return "throttlingException"
	case http.StatusFailedDependency:
		return "modelStreamErrorException"
	case http.StatusServiceUnavailable:
		return "serviceUnavailableException"
	}
	if p.status >= 500 {
		return "internalServerException"
	}
	return "validationException"
}

// readInvoke reads a request whose body is Anthropic's, without a model.
func readInvoke(model string, stream bool) operation {
	return func(_ *http.Request, body []byte) (c call, _ format, p *problem) {
		req := messagesRequest{Model: model}
		if c, p = req.parse(body); p != nil {
			return c, nil, p
		}
		if req.MaxTokens == nil {
			return c, nil, required("max_tokens")
		}
		if p = c.bound("max_tokens", req.MaxTokens); p != nil {
			return c, nil, p
		}
		c.model, c.stream = model, stream
		return c, invokeFormat{}, nil
	}
}

// invokeFormat writes a message: a unary one with its tokens in headers, a streamed one
// in chunks, of which the last has them.
type invokeFormat struct{ messageFormat }

func (invokeFormat) contentType() string { return converseFormat{}.contentType() }

func (f invokeFormat) begin(a *answer, out *events) {
	out.chunks = true
	f.messageFormat.begin(a, out)
}

// end: the metrics are as seen in the wild.
func (f invokeFormat) end(a *answer, out *events) {
	f.stop(a, out)
	out.event("message_stop", map[string]any{
		"type": "message_stop",
		"amazon-bedrock-invocationMetrics": map[string]int64{
			"inputTokenCount":   a.call.input,
			"outputTokenCount":  a.tokens,
			"invocationLatency": int64(time.Since(a.began) / time.Millisecond),
			"firstByteLatency":  int64(a.timing.first / time.Millisecond),
		},
	})
}

func (invokeFormat) fail(a *answer, out *events, p *problem) { converseFormat{}.fail(a, out, p) }

func (invokeFormat) failed(*answer, *problem) any { return nil }

func (invokeFormat) header(a *answer, h http.Header) {
	setInt(h, "X-Amzn-Bedrock-Input-Token-Count", a.call.input)
	setInt(h, "X-Amzn-Bedrock-Output-Token-Count", a.tokens)
	setInt(h, "X-Amzn-Bedrock-Invocation-Latency", int64(time.Since(a.began)/time.Millisecond))
}
