package llmhttp

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"maps"
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// refusalKey finds a refusal's error in the context of its response's request.
type refusalKey struct{}

// Refusal is the queue's error behind a response that a [QueueTransport] made because the queue
// refused the call, nil for any other. SDKs have the response in their error: apierror.Response
// of OpenAI's and Anthropic's, for example.
func Refusal(res *http.Response) error {
	if res == nil || res.Request == nil {
		return nil
	}
	err, _ := res.Request.Context().Value(refusalKey{}).(error)
	return err
}

// refusal is the response to a request that the queue refuses.
func refusal(r *http.Request, err error, sdkRetries bool) *http.Response {
	status, header, body := refuse(r, err)
	if !sdkRetries {
		header.Set("X-Should-Retry", "false")
	}
	return &http.Response{
		Status:     strconv.Itoa(status) + " " + http.StatusText(status),
		StatusCode: status,
		Proto:      "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: header, Body: io.NopCloser(bytes.NewReader(body)), ContentLength: int64(len(body)),
		Request: r.WithContext(context.WithValue(r.Context(), refusalKey{}, err)),
	}
}

// WriteError answers r with err, in the shape in which the provider that r speaks to says its own
// errors, with the status of [StatusOf] and Retry-After. It is for who stands between clients and
// providers.
func WriteError(w http.ResponseWriter, r *http.Request, err error) {
	status, header, body := refuse(r, err)
	maps.Copy(w.Header(), header)
	w.WriteHeader(status)
	_, _ = w.Write(body)
}

// refuse is what r is answered with.
func refuse(r *http.Request, err error) (status int, h http.Header, body []byte) {
	status, after := StatusOf(err)
	h = http.Header{"Content-Type": {"application/json"}}
	if after > 0 {
		h.Set("Retry-After", strconv.FormatInt(int64(math.Ceil(after.Seconds())), 10))
	}
	said := said{status: status, after: after, quota: isQuota(err), message: err.Error()}
	body, mErr := json.Marshal(dialectOf(r)(said, h))
	if mErr != nil { // of strings and numbers
		body = []byte(`{"error":{"message":"refused"}}`)
	}
	return status, h, body
}

// said is an error that is to be said as a provider says it.
type said struct {
	status  int
	after   time.Duration
	quota   bool // a quota is used up, not a limit for now
	message string
}

// object is a JSON object.
type object = map[string]any

// dialectOf is how the provider says errors that r speaks to: it may add headers.
func dialectOf(r *http.Request) func(said, http.Header) object {
	path := strings.ToLower(r.URL.Path)
	for _, d := range []struct {
		is  bool
		say func(said, http.Header) object
	}{
		{r.Header.Get("Anthropic-Version") != "" || strings.HasSuffix(path, "/messages"), sayAnthropic},
		{strings.Contains(path, "/models/") && strings.Contains(path, ":"), sayGoogle},
		{strings.HasPrefix(path, "/model/"), sayAmazon},
		{strings.HasPrefix(path, "/api/"), sayOllama},
		{strings.HasSuffix(path, "/v2/chat") || strings.HasSuffix(path, "/v1/chat") || strings.Contains(r.URL.Host, "cohere"), sayCohere},
	} {
		if d.is {
			return d.say
		}
	}
	return sayOpenAI
}

// refusalName is what providers call errors of a status, by what their documents say:
// https://platform.openai.com/docs/guides/error-codes, https://docs.anthropic.com/en/api/errors,
// https://cloud.google.com/apis/design/errors and
// https://docs.aws.amazon.com/bedrock/latest/APIReference/CommonErrors.html.
type refusalName struct {
	status                                   int
	kind, code, anthropic, google, exception string // kind and code are OpenAI's
}

var refusalNames = []refusalName{
	{400, "invalid_request_error", "", "invalid_request_error", "INVALID_ARGUMENT", "ValidationException"},
	{401, "invalid_request_error", "invalid_api_key", "authentication_error", "UNAUTHENTICATED", "AccessDeniedException"},
	{403, "invalid_request_error", "", "permission_error", "PERMISSION_DENIED", "AccessDeniedException"},
	{404, "invalid_request_error", "model_not_found", "not_found_error", "NOT_FOUND", "ResourceNotFoundException"},
	{409, "invalid_request_error", "", "invalid_request_error", "ALREADY_EXISTS", "ValidationException"},
	{413, "invalid_request_error", "", "request_too_large", "INVALID_ARGUMENT", "ValidationException"},
	{429, "rate_limit_exceeded", "rate_limit_exceeded", "rate_limit_error", "RESOURCE_EXHAUSTED", "ThrottlingException"},
	{499, "invalid_request_error", "", "invalid_request_error", "CANCELLED", "ValidationException"},
	{500, "server_error", "", "api_error", "INTERNAL", "InternalServerException"},
	{503, "server_error", "", "overloaded_error", "UNAVAILABLE", "ServiceUnavailableException"},
	{504, "server_error", "", "api_error", "DEADLINE_EXCEEDED", "InternalServerException"},
}

// names is the row of the error's status. One that is not there is called as 500 is.
func (e said) names() (other refusalName) {
	for _, r := range refusalNames {
		switch r.status {
		case e.status:
			return r
		case http.StatusInternalServerError:
			other = r
		}
	}
	return other
}

func sayOpenAI(e said, _ http.Header) object {
	names := e.names()
	kind, code := names.kind, any(names.code)
	switch {
	case e.quota:
		kind, code = "insufficient_quota", "insufficient_quota"
	case names.code == "":
		code = nil
	}
	return object{"error": object{"message": e.message, "type": kind, "param": nil, "code": code}}
}

func sayAnthropic(e said, _ http.Header) object {
	return object{"type": "error", "error": object{"type": e.names().anthropic, "message": e.message}}
}

func sayGoogle(e said, _ http.Header) object {
	is := object{"code": e.status, "message": e.message, "status": e.names().google}
	if e.after > 0 {
		is["details"] = []object{{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": e.after.Round(time.Millisecond).String()}}
	}
	return object{"error": is}
}

func sayAmazon(e said, h http.Header) object {
	exception := e.names().exception
	if e.quota {
		exception = "ServiceQuotaExceededException"
	}
	h.Set("X-Amzn-Errortype", exception)
	return object{"message": e.message}
}

// sayOllama: https://github.com/ollama/ollama/blob/main/docs/api.md.
func sayOllama(e said, _ http.Header) object { return object{"error": e.message} }

// sayCohere: https://docs.cohere.com/reference/errors.
func sayCohere(e said, _ http.Header) object { return object{"message": e.message} }
