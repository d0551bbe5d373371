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

// sayOpenAI: https://platform.openai.com/docs/guides/error-codes.
func sayOpenAI(e said, _ http.Header) object {
	kind, code := "server_error", any(nil)
	switch {
	case e.quota:
		kind, code = "insufficient_quota", "insufficient_quota"
	case e.status == http.StatusTooManyRequests:
		kind, code = "rate_limit_exceeded", "rate_limit_exceeded"
	case e.status == http.StatusNotFound:
		kind, code = "invalid_request_error", "model_not_found"
	case e.status == http.StatusUnauthorized:
		kind, code = "invalid_request_error", "invalid_api_key"
	case e.status < http.StatusInternalServerError:
		kind = "invalid_request_error"
	}
	return object{"error": object{"message": e.message, "type": kind, "param": nil, "code": code}}
}

// sayAnthropic: https://docs.anthropic.com/en/api/errors.
func sayAnthropic(e said, _ http.Header) object {
	kind := "api_error"
	switch e.status {
	case http.StatusTooManyRequests:
		kind = "rate_limit_error"
	case http.StatusNotFound:
		kind = "not_found_error"
	case http.StatusUnauthorized:
		kind = "authentication_error"
	case http.StatusForbidden:
		kind = "permission_error"
	case http.StatusRequestEntityTooLarge:
		kind = "request_too_large"
	case http.StatusBadRequest, http.StatusConflict:
		kind = "invalid_request_error"
	case http.StatusServiceUnavailable:
		kind = "overloaded_error"
	}
	return object{"type": "error", "error": object{"type": kind, "message": e.message}}
}

// sayGoogle: https://cloud.google.com/apis/design/errors.
func sayGoogle(e said, _ http.Header) object {
	status := "INTERNAL"
	switch e.status {
	case http.StatusTooManyRequests:
		status = "RESOURCE_EXHAUSTED"
	case http.StatusNotFound:
		status = "NOT_FOUND"
	case http.StatusUnauthorized:
		status = "UNAUTHENTICATED"
	case http.StatusForbidden:
		status = "PERMISSION_DENIED"
	case http.StatusBadRequest, http.StatusRequestEntityTooLarge:
		status = "INVALID_ARGUMENT"
	case http.StatusConflict:
		status = "ALREADY_EXISTS"
	case http.StatusServiceUnavailable:
		status = "UNAVAILABLE"
	case http.StatusGatewayTimeout:
		status = "DEADLINE_EXCEEDED"
	}
	is := object{"code": e.status, "message": e.message, "status": status}
	if e.after > 0 {
		is["details"] = []object{{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": e.after.Round(time.Millisecond).String()}}
	}
	return object{"error": is}
}

// sayAmazon: https://docs.aws.amazon.com/bedrock/latest/APIReference/CommonErrors.html.
func sayAmazon(e said, h http.Header) object {
	kind := "InternalServerException"
	switch {
	case e.quota:
		kind = "ServiceQuotaExceededException"
	case e.status == http.StatusTooManyRequests:
		kind = "ThrottlingException"
	case e.status == http.StatusNotFound:
		kind = "ResourceNotFoundException"
	case e.status == http.StatusUnauthorized, e.status == http.StatusForbidden:
		kind = "AccessDeniedException"
	case e.status == http.StatusServiceUnavailable:
		kind = "ServiceUnavailableException"
	case e.status < http.StatusInternalServerError:
		kind = "ValidationException"
	}
	h.Set("X-Amzn-Errortype", kind)
	return object{"message": e.message}
}

// sayOllama: https://github.com/ollama/ollama/blob/main/docs/api.md.
func sayOllama(e said, _ http.Header) object { return object{"error": e.message} }

// sayCohere: https://docs.cohere.com/reference/errors.
func sayCohere(e said, _ http.Header) object { return object{"message": e.message} }
