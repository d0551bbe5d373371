package schema

import (
	"encoding/json"
	"strings"

	"github.com/llmqueue/llmqueue/cmd/llmq/internal/requests"
)

// turn is one message of a conversation.
type turn struct {
	Role    string `json:"role"`
	Content string `json:"content"`
}

// Reask is a request that asks once more after an answer that does not fit: the conversation
// goes on with that answer and with what it lacks, where the path has conversations. Elsewhere,
// and when the answer has no text or several, it is the request itself.
func Reask(req *requests.Request, answer []byte, lacks string) *requests.Request {
	list := Texts(req.Path, answer)
	if len(list) != 1 || strings.TrimSpace(list[0]) == "" {
		return req
	}
	name := "messages"
	switch {
	case strings.HasSuffix(req.Path, "/responses"):
		name = "input"
	case !strings.HasSuffix(req.Path, "/chat/completions") && !strings.HasSuffix(req.Path, "/messages") &&
		!strings.HasSuffix(req.Path, "/v2/chat") && !strings.HasSuffix(req.Path, "/api/chat"):
		return req
	}
	var body map[string]json.RawMessage
	if json.Unmarshal(req.Body, &body) != nil {
		return req
	}
	var turns []any
	var single string
	switch {
	case json.Unmarshal(body[name], &single) == nil && name == "input":
		turns = []any{turn{"user", single}}
	default:
		var raw []json.RawMessage
		if json.Unmarshal(body[name], &raw) != nil {
			return req
		}
		for _, r := range raw {
			turns = append(turns, r)
		}
	}
	more := []turn{{"assistant", list[0]}, {"user", "That answer does not fit the JSON schema: " + lacks + ". Answer again with JSON that fits, and nothing else."}}
	for _, t := range more {
		turns = append(turns, t)
	}
	raw, err := json.Marshal(turns)
	if err != nil {
		return req
	}
	again := *req
	again.Body = requests.Replace(req.Body, name, raw)
	for _, t := range more {
		again.Estimate.InputTokens += int64(len(t.Content)+3) / 4
	}
	return &again
}
