package llmhttp

import (
	"bytes"
	"time"

	"github.com/llmqueue/llmqueue"
)

// progress is what is known of how far an answer has come.
type progress struct {
	output  bool // a part of the answer has come since this was last cleared
	dialect dialect
	over    bool // the dialect's last event has come, or what makes it superfluous
	failed  bool // a reason to finish is that there was an error
	idle    bool // the document that comes along only keeps the connection open
}

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
)

// recognize settles the dialect, which does not change within an answer.
func (p *progress) recognize(d dialect) {
	if p.dialect == unrecognized {
		p.dialect = d
	}
}

// wholeMember takes note of a member that was kept and is complete.
func (s *scanner) wholeMember(value []byte) {
	switch string(s.key) {
	case "finish_reason", "finishReason": // of a choice, a candidate or Cohere's delta
		s.finish(value)
	case "stop_reason":
		s.over = true // Anthropic's: message_stop says nothing new
	case "object":
		switch string(value) {
		case `"error"`:
			s.telling = true // it says that the document is an error
		case `"chat.completion.chunk"`:
			s.recognize(chatChunks)
		}
	case "done":
		s.recognize(ollamaLines)
		s.over = s.over || string(value) != "false"
	case "type":
		s.wholeType(value)
	}
}

func (s *scanner) finish(reason []byte) {
	switch {
	case len(reason) <= len(`""`):
		return
	case bytes.EqualFold(reason, []byte(`"error"`)):
		s.failed = true
	}
	s.over = true
}

// wholeType takes note of a document's type.
func (s *scanner) wholeType(value []byte) {
	switch string(value) {
	case `"error"`:
		s.telling = true
	case `"ping"`, `"keepalive"`:
		s.idle = true
	case `"message_start"`:
		s.recognize(messageEvents)
	case `"message-start"`:
		s.recognize(cohereEvents)
	case `"response.failed"`:
		s.failed, s.over = true, true
	case `"message_stop"`, `"message-end"`, `"response.completed"`, `"response.incomplete"`, `"response.cancelled"`, `"response.done"`:
		s.over = true
	case `"response.created"`, `"response.queued"`, `"response.in_progress"`:
		s.recognize(responseEvents)
	}
}

// cutOff reports whether an answer that ended without an error ended too early: within a
// document, or before the last event of its dialect.
func (s *scanner) cutOff() bool {
	return s.framing == documents && s.state != outside || s.dialect != unrecognized && !s.over
}

// said is what an answer tells that has come to its end, or that its reader left: then
// it may go on.
func (s *scanner) said(now time.Time, left bool) llmqueue.Observation {
	o := s.observation(now)
	if o.Outcome == "" && (s.failed || !left && s.cutOff()) {
		o.Outcome = llmqueue.OutcomeRetryable
	}
	return o
}
