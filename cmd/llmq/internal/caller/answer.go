package caller

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"

	"github.com/llmqueue/llmqueue"
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

// check is the error of a success that is no answer, or nil. ctx is that of the call.
func check(ctx context.Context, path string, r Reply, data []byte) error {
	why := lacks(path, data)
	if reason := blocked(data); why != "" && reason != "" {
		return &NoAnswerError{Reply: r, Why: "the prompt was blocked: " + reason, Final: true}
	}
	switch llmqueue.Observed(ctx).Outcome {
	case "", llmqueue.OutcomeServed:
		if why != "" {
			return &NoAnswerError{Reply: r, Why: why}
		}
		return nil
	}
	if said := message(r.Body); said != "" && json.Valid(data) {
		why = "with an error: " + said
	}
	if why == "" {
		why = "the answer broke off"
	}
	return &NoAnswerError{Reply: r, Why: why, Said: true}
}

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

// lacks says what a body lacks to be the answer that a path gives, or "".
func lacks(path string, data []byte) string {
	switch data = bytes.TrimSpace(data); {
	case len(data) == 0:
		return "the answer is empty"
	case data[0] == '<':
		return "with a page of HTML: check --base-url"
	case !json.Valid(data):
		return "the answer is no whole JSON"
	case isEmpty(data):
		return "the answer is empty"
	}
	for _, s := range shapes {
		if !strings.HasSuffix(path, s.path) {
			continue
		}
		var fields map[string]json.RawMessage
		if json.Unmarshal(data, &fields) != nil {
			return "the answer is no JSON object"
		}
		switch status := strings.Trim(string(fields["status"]), `"`); {
		case s.path == "/responses" && status != "" && status != "completed" && status != "incomplete" && status != "null":
			return "its status is " + status
		case !s.list && isEmpty(fields[s.name]):
			return fmt.Sprintf("the answer has no %q", s.name)
		case !s.list:
			return ""
		}
		var list []json.RawMessage
		if raw := fields[s.name]; raw == nil || json.Unmarshal(raw, &list) != nil || list == nil {
			return fmt.Sprintf("the answer has no %q", s.name)
		}
		if len(list) < s.least {
			return fmt.Sprintf("%q is empty", s.name)
		}
		for _, entry := range list {
			var members map[string]json.RawMessage
			if s.member != "" && (json.Unmarshal(entry, &members) != nil || isEmpty(members[s.member])) {
				return fmt.Sprintf("%q has no %q", s.name, s.member)
			}
		}
		return ""
	}
	return ""
}

// isEmpty reports whether a JSON value is missing, null, or an object or list of nothing.
func isEmpty(raw json.RawMessage) bool {
	switch text := string(bytes.TrimSpace(raw)); {
	case text == "", text == "null":
		return true
	case text[0] == '{' || text[0] == '[':
		return len(bytes.TrimSpace([]byte(text[1:len(text)-1]))) == 0
	}
	return false
}
