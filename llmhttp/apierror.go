package llmhttp

import (
	"encoding/json"
	"strconv"
	"strings"
	"time"

	"github.com/llmqueue/llmqueue"
)

// apiError is what an error body says, whatever its shape.
type apiError struct {
	found      bool     // there is one
	words      []string // codes, statuses and types, the most telling first
	message    string
	param      string // the part of the request that it blames
	flagged    bool   // it says what moderation found in the request
	status     int    // that it gives itself
	anthropic  bool   // has Anthropic's outer shape
	retryDelay string
	violations []violation
	headers    map[string]string
}

// violation is a quota of Google's that a call broke.
type violation struct {
	QuotaMetric string `json:"quotaMetric"`
	QuotaID     string `json:"quotaId"`
	QuotaValue  text   `json:"quotaValue"`
}

// nestedError is the object that most have.
type nestedError struct {
	Message  text            `json:"message"`
	Type     text            `json:"type"`
	Code     text            `json:"code"`
	Status   text            `json:"status"`
	Param    text            `json:"param"`
	Details  json.RawMessage `json:"details"`
	Metadata struct {
		Headers      map[string]text `json:"headers"`
		FlaggedInput text            `json:"flagged_input"` // OpenRouter
	} `json:"metadata"`
	InnerError struct {
		Code text `json:"code"`
	} `json:"innererror"` // Azure
}

// parseAPIError reads a failure's body: what has no other shape is a message.
func parseAPIError(body []byte) *apiError {
	s := scanner{findings: findings{failure: true}}
	s.write(body)
	e := s.err
	if e == nil {
		e = &apiError{message: string(body)}
	}
	e.found = e.found || s.failed
	return e
}

// apiError gives the error that a document is, or nil. Of a failure, which is one in
// any case, it gives what the document has. Errors have these shapes:
//
//	{"error":{"message":"…","type":"…","code":"…","status":"…","details":[…]}}   most
//	{"type":"error","error":{…}}                                                Anthropic
//	{"response":{"error":{…}}}                                                  OpenAI's streamed responses
//	{"choices":[{"error":{…}}]}                                                 OpenRouter, kept as the first
//	{"delta":{"error":"…"}}                                                     Cohere
//	{"type":"error","message":"…","code":"…"}                                   the same, before they begin
//	{"object":"error","message":"…","type":"…","code":"…"}                      Mistral, vLLM
//	{"error":"…"}                                                               Ollama
//	{"message":"…","__type":"…"}                                                Bedrock
func (d *document) apiError(failure bool) *apiError {
	nested := d.Error
	if nested == nil {
		nested = d.Response.Error
	}
	if nested == nil {
		nested = d.Delta.Error
	}
	e := &apiError{found: true, param: string(d.Param), anthropic: d.Type == "error" && len(nested) > 0}
	var message text
	switch {
	case len(nested) > 0 && nested[0] == '{':
		e.readNested(nested)
	case json.Unmarshal(nested, &message) == nil && message != "":
		e.message = string(message)
	case d.Type == "error" || d.Object == "error":
		e.message = string(d.Message.Text)
	case failure:
		e.found = false
		e.message = string(d.Message.Text + d.Detail)
	default:
		return nil
	}
	if e.message == "" {
		e.message = string(d.Message.Text)
	}
	amazon := string(d.AmazonType[strings.LastIndexByte(string(d.AmazonType), '#')+1:])
	e.say(string(d.Code))
	if d.Type != "error" {
		e.say(string(d.Type))
	}
	e.say(amazon)
	return e
}

func (e *apiError) readNested(data []byte) {
	var n nestedError
	_ = json.Unmarshal(data, &n)
	e.message = string(n.Message)
	var object struct {
		ErrorCode text `json:"error_code"`
	}
	var list []struct {
		Reason     text        `json:"reason"`
		RetryDelay text        `json:"retryDelay"`
		Violations []violation `json:"violations"`
	}
	_ = json.Unmarshal(n.Details, &object)
	_ = json.Unmarshal(n.Details, &list)
	for _, d := range list {
		if d.RetryDelay != "" {
			e.retryDelay = string(d.RetryDelay)
		}
		e.violations = append(e.violations, d.Violations...)
	}
	for _, w := range []text{object.ErrorCode, n.Code, n.Status, n.Type, n.InnerError.Code} {
		e.say(string(w))
	}
	for _, d := range list {
		e.say(string(d.Reason))
	}
	if n.Param != "" {
		e.param = string(n.Param)
	}
	e.flagged = n.Metadata.FlaggedInput != ""
	for k, v := range n.Metadata.Headers {
		if e.headers == nil {
			e.headers = map[string]string{}
		}
		e.headers[k] = string(v)
	}
}

// say adds a word.
func (e *apiError) say(word string) {
	if word == "" {
		return
	}
	e.words = append(e.words, word)
	if n, err := strconv.Atoi(word); err == nil && e.status == 0 {
		e.status = n
	}
}

// google reports whether e is a Google API's refusal by a quota.
func (e *apiError) google() bool {
	return len(e.violations) > 0 || e.says(googleRefusal)
}

var googleRefusal = names("RESOURCE_EXHAUSTED")

// never reports whether a broken quota of Google's is zero.
func (e *apiError) never() bool {
	for _, v := range e.violations {
		if v.QuotaValue == "0" {
			return true
		}
	}
	return neverAnyUse.MatchString(e.message)
}

func (e *apiError) perDay() bool {
	for _, v := range e.violations {
		if strings.Contains(v.QuotaID, "PerDay") {
			return true
		}
	}
	return false
}

// limit is the limit that v names, such as GenerateRequestsPerMinutePerProjectPerModel.
func (v violation) limit() (llmqueue.ObservedLimit, bool) {
	n, ok := integer(string(v.QuotaValue))
	if !ok || n < 1 {
		return llmqueue.ObservedLimit{}, false
	}
	l := llmqueue.ObservedLimit{Kind: llmqueue.KindRPM, Amount: n}
	if what := strings.ToLower(v.QuotaID + v.QuotaMetric); strings.Contains(what, "token") {
		l.Remaining = -1 // too little for that call
		if l.Kind = llmqueue.KindTPM; strings.Contains(what, "input") {
			l.Kind = llmqueue.KindITPM
		}
	}
	switch {
	case strings.Contains(v.QuotaID, "PerDay"):
		setPeriod(&l, 24*time.Hour)
	case strings.Contains(v.QuotaID, "PerMinute"):
		l.Period = time.Minute
	default:
		return l, false
	}
	return l, true
}

// text is a string, or a number as it is written. Anything else is empty.
type text string

// UnmarshalJSON never fails: a surprise in one member leaves the others readable.
func (t *text) UnmarshalJSON(data []byte) error {
	*t = ""
	switch {
	case data[0] == '"':
		var s string
		if err := json.Unmarshal(data, &s); err == nil {
			*t = text(s)
		}
	case data[0] == '-' || data[0] >= '0' && data[0] <= '9':
		*t = text(data)
	}
	return nil
}
