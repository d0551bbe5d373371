package caller

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"

	"github.com/llmqueue/llmqueue"
	"github.com/llmqueue/llmqueue/cmd/llmq/internal/jsonwalk"
)

// NoAnswerError is a success by its status that has no answer of use in it: an error, a
// page, a part of one, or nothing.
type NoAnswerError struct {
	Reply
	Why string
	// Said is whether the provider's own words say so, which llmhttp has told the queue.
	Said bool
	// Final is whether another attempt would end alike: the prompt itself was refused.
	Final bool
}

func (e *NoAnswerError) Error() string {
	return fmt.Sprintf("the provider answered %d %s, but %s", e.Status, http.StatusText(e.Status), e.Why)
}

// noAnswer is the error of a success that is no answer, for it lacks something, or for what was
// observed of the call is no success.
func noAnswer(r Reply, data []byte, why string, said bool) error {
	if reason := blocked(data); why != "" && reason != "" {
		return &NoAnswerError{Reply: r, Why: "the prompt was blocked: " + reason, Final: true}
	}
	if !said {
		return &NoAnswerError{Reply: r, Why: why}
	}
	if text := message(r.Body); text != "" && json.Valid(data) {
		why = "with an error: " + text
	}
	if why == "" {
		why = "the answer broke off"
	}
	return &NoAnswerError{Reply: r, Why: why, Said: true}
}

// served reports whether what was observed of a call is that it was served, or nothing.
func served(o llmqueue.Outcome) bool { return o == "" || o == llmqueue.OutcomeServed }

// blocked is why Gemini gives a prompt no answer, "" if it does not say so: see
// PromptFeedback at ai.google.dev/api/generate-content.
func blocked(data []byte) string {
	var b struct {
		Feedback struct {
			Reason string `json:"blockReason"`
		} `json:"promptFeedback"`
	}
	_ = json.Unmarshal(data, &b)
	return b.Feedback.Reason
}

// shapes are what answers have, by the end of the path: a list with so many entries at
// least, each with a member, or else an object. From the providers' references:
// platform.openai.com/docs/api-reference, docs.anthropic.com/en/api/messages,
// ai.google.dev/api/generate-content, docs.aws.amazon.com/bedrock (Converse),
// docs.cohere.com/reference/chat, github.com/ollama/ollama/blob/main/docs/api.md. Any other
// path wants JSON that is not empty.
var shapes = []struct {
	path, name string
	list       bool
	least      int
	member     string
}{
	{"/chat/completions", "choices", true, 1, "message"},
	{"/completions", "choices", true, 1, "text"},
	{"/responses", "output", true, 0, ""},
	{"/embeddings", "data", true, 1, "embedding"},
	{"/messages", "content", true, 0, ""},
	{":generateContent", "candidates", true, 1, ""},
	{":batchEmbedContents", "embeddings", true, 1, "values"},
	{":embedContent", "embedding", false, 0, ""},
	{"/converse", "output", false, 0, ""},
	{"/v2/chat", "message", false, 0, ""},
	{"/api/chat", "message", false, 0, ""},
}

// lacks says what a body lacks to be the answer that a path gives, or "". whole says whether it
// is valid JSON.
func lacks(path string, data []byte, whole bool) string {
	switch data = bytes.TrimSpace(data); {
	case len(data) == 0:
		return "the answer is empty"
	case data[0] == '<':
		return "with a page of HTML: check --base-url"
	case !whole:
		return "the answer is no whole JSON"
	case jsonwalk.IsEmpty(data):
		return "the answer is empty"
	}
	for _, s := range shapes {
		if !strings.HasSuffix(path, s.path) {
			continue
		}
		if data[0] != '{' {
			return "the answer is no JSON object"
		}
		part := valueOf(data, s.name)
		if s.path == "/responses" {
			switch status := strings.Trim(string(valueOf(data, "status")), `"`); status {
			case "", "null", "completed", "incomplete":
			default:
				return "its status is " + status
			}
		}
		switch {
		case !s.list && jsonwalk.IsEmpty(part), s.list && (part == nil || part[0] != '['):
			return fmt.Sprintf("the answer has no %q", s.name)
		case !s.list:
			return ""
		}
		n := 0
		for entry := range jsonwalk.Elements(part) {
			n++
			if s.member != "" && (entry[0] != '{' || jsonwalk.IsEmpty(valueOf(entry, s.member))) {
				return fmt.Sprintf("%q has no %q", s.name, s.member)
			}
		}
		if n < s.least {
			return fmt.Sprintf("%q is empty", s.name)
		}
		return ""
	}
	return ""
}

// valueOf is the value of an object's member, nil if it has none.
func valueOf(object []byte, name string) (value []byte) {
	for m := range jsonwalk.Members(object) {
		if string(m.Name) == name {
			value = m.Value
		}
	}
	return value
}
