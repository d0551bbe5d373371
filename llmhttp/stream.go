package llmhttp

import (
	"bytes"
	"net/http"
	"strings"
	"time"

	"github.com/llmqueue/llmqueue"
)

// dialect is a kind of stream whose end is known. It is recognized by what only its
// documents hold. Of others nothing is known: how they end is fine.
type dialect uint8

const (
	unrecognized dialect = iota
	chatChunks           // OpenAI's chat completions, by "object"
	responseEvents
	messageEvents // Anthropic
	ollamaLines
	geminiEvents
	cohereEvents
	converseFrames // Bedrock
)

// milestoneMembers are the members that say how far an answer has come.
var milestoneMembers = []struct{ name, paths string }{
	{"type", "type"},
	{"object", "object"},
	{"done", "done"},
	{"finish", "choices[].finish_reason candidates[].finishreason delta.finish_reason finish_reason"},
	{"stop", "delta.stop_reason stop_reason"},
	{"candidates", "candidates"},
	{"feedback", "promptfeedback"},
	{"status", "response.status status"},
	{"stored", "custom_id"},
	{"background", "background"},
	{"content", "choices output outputs data result results content delta embeddings response text"},
}

// milestone is one point of a stream.
type milestone struct {
	begins dialect // from it on, the stream is of this dialect
	over   bool    // nothing that counts comes after it
	failed bool
	idle   bool // it only keeps the connection open
	error  bool // the document is an error
	stored bool // the document tells of calls that were made before
	told   told
}

// milestones are the points by the member that names them and its value.
var milestones = map[string]milestone{
	"type ping":                 {idle: true},
	"type keepalive":            {idle: true},
	"type error":                {error: true},
	"type message_start":        {begins: messageEvents},
	"type message_stop":         {over: true},
	"type response.created":     {begins: responseEvents},
	"type response.queued":      {begins: responseEvents},
	"type response.in_progress": {begins: responseEvents},
	"type response.failed":      {over: true, failed: true},
	"type response.completed":   {over: true},
	"type response.incomplete":  {over: true},
	"type response.cancelled":   {over: true},
	"type response.done":        {over: true},
	"type message-start":        {begins: cohereEvents},
	"type message-end":          {over: true},

	"object error":                   {error: true},
	"object chat.completion.chunk":   {begins: chatChunks},
	"object response":                {told: toldResponse},
	"background true":                {told: toldBackground},
	"object batch":                   {stored: true},
	"object batch.list":              {stored: true},
	"object fine_tuning.job":         {stored: true},
	"object eval.run":                {stored: true},
	"object file":                    {stored: true},
	"object vector_store.file":       {stored: true},
	"object vector_store.file_batch": {stored: true},
	"type message_batch":             {stored: true},

	"done false": {begins: ollamaLines},
	"done true":  {begins: ollamaLines, over: true},

	"status failed": {failed: true},
	"status error":  {error: true},

	"event messagestart": {begins: converseFrames},
	"event messagestop":  {over: true},
	"event metadata":     {over: true},
}

// told is what is known of a response of OpenAI's. One that runs in the background tells what it
// used when it is read; any other did so when it was made.
type told uint8

const (
	toldResponse told = 1 << iota
	toldBackground
)

// recognize settles the dialect, which does not change within an answer.
func (a *answer) recognize(d dialect) {
	if a.dialect == unrecognized {
		a.dialect = d
	}
}

// longestMilestone is how long a value may be that names one.
const longestMilestone = 40

// milestone takes note of the point that a member names. It reports whether the document is
// an error.
func (a *answer) milestone(member string, raw []byte) bool {
	said := bytes.Trim(raw, `"`)
	switch member {
	case "finish": // of a choice, a candidate or Cohere's delta
		if len(said) > 0 {
			a.over = true
			a.failed = a.failed || bytes.EqualFold(said, []byte("error"))
		}
		return false
	case "stop": // Anthropic's message_stop says nothing new
		a.over = a.over || len(said) > 0
		return false
	case "stored": // a batch's results
		a.stored = true
		return false
	case "feedback": // Gemini may have blocked the prompt
		a.over = true
		return false
	}
	if len(said) > longestMilestone {
		return false
	}
	var name [longestMilestone + 10]byte
	m, ok := milestones[string(append(append(append(name[:0], member...), ' '), bytes.ToLower(said)...))]
	if !ok {
		return false
	}
	if m.begins != unrecognized {
		a.recognize(m.begins)
	}
	a.over = a.over || m.over
	a.failed = a.failed || m.failed
	a.idle = a.idle || m.idle
	a.stored = a.stored || m.stored
	a.told |= m.told
	return m.error
}

// alarming reports whether the alarm with that index goes off.
func alarming(alarm uint8, raw []byte) bool {
	if alarms[alarm] == "success" {
		return blank(raw)
	}
	return !fine(raw)
}

// fine reports whether a value such as a status within an answer is the one of success.
func fine(raw []byte) bool {
	switch strings.ToLower(strings.Trim(string(raw), `"`)) {
	case "", "0", "true", "ok", "200", "success":
		return true
	}
	return false
}

// blank reports whether a value says that there is nothing.
func blank(raw []byte) bool {
	switch strings.ToLower(strings.Trim(string(raw), `"`)) {
	case "", "0", "false", "none", "null":
		return true
	}
	return false
}

// cutOff reports whether an answer that ended without an error ended too early: within a
// document, or before the last event of its dialect.
func (s *scanner) cutOff() bool {
	switch {
	case s.framing == documents && (s.state != outside || s.listed > 0),
		s.framing == amazonFrames && (len(s.frames.head) > 0 || s.frames.left > 0 || s.frames.tail > 0):
		return true
	}
	return s.dialect != unrecognized && !s.over
}

// said is what an answer tells that has come to its end, or that its reader left: then
// it may go on.
func (s *scanner) said(from origin, now time.Time, left bool) llmqueue.Observation {
	o := s.observation(from, now)
	if o.Outcome == "" && (s.failed || s.noAnswer(from, left) || !left && s.cutOff()) {
		o.Outcome = llmqueue.OutcomeRetryable
	}
	return o
}

// noAnswer reports whether what came in the place of an answer is none: a page for people, which
// some proxy gave, or nothing although JSON or events were promised.
func (s *scanner) noAnswer(from origin, left bool) bool {
	if from.method != http.MethodPost {
		return false
	}
	kind := from.header.Get("Content-Type")
	return s.page && (kind == "" || strings.HasPrefix(kind, "text/html")) ||
		!left && s.framing == unknown && (strings.HasPrefix(kind, "application/json") || strings.HasPrefix(kind, "text/event-stream"))
}
