package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
)

// script gives the simulator's answers, which are words without sense, the sense of an agent's:
// first the weather of each city and what to pack for it, by the two tools in turns, and then the
// words. Limits, latencies, errors and usage stay the simulator's.
type script struct{ next http.RoundTripper }

func (s script) RoundTrip(r *http.Request) (*http.Response, error) {
	sent, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	_ = r.Body.Close()
	r = r.Clone(r.Context())
	r.Body = io.NopCloser(bytes.NewReader(sent))
	res, err := s.next.RoundTrip(r)
	if err != nil || res.StatusCode != http.StatusOK {
		return res, err
	}
	defer res.Body.Close()
	var answer struct {
		ID      string          `json:"id"`
		Object  string          `json:"object"`
		Created int64           `json:"created"`
		Model   string          `json:"model"`
		Choices []any           `json:"choices"`
		Usage   json.RawMessage `json:"usage"`
	}
	said, err := io.ReadAll(res.Body)
	if err != nil {
		return nil, err
	}
	if call := toolCall(sent); call != nil && json.Unmarshal(said, &answer) == nil {
		message := map[string]any{"role": "assistant", "content": nil, "tool_calls": []any{call}}
		answer.Choices = []any{map[string]any{"index": 0, "finish_reason": "tool_calls", "message": message}}
		if said, err = json.Marshal(answer); err != nil {
			return nil, err
		}
	}
	res.Body, res.ContentLength = io.NopCloser(bytes.NewReader(said)), int64(len(said))
	res.Header.Set("Content-Length", fmt.Sprint(len(said)))
	return res, nil
}

// toolCall is the tool call with which a request is answered, nil when all were made.
func toolCall(sent []byte) any {
	var request struct {
		Messages []struct{ Role string }
	}
	if json.Unmarshal(sent, &request) != nil {
		return nil
	}
	made := 0
	for _, m := range request.Messages {
		if m.Role == "tool" {
			made++
		}
	}
	if made >= toolCallsPerRun {
		return nil
	}
	name := [...]string{"weather", "packing_list"}[made%2]
	arguments := fmt.Sprintf(`{"city":%q}`, cities[made/2])
	return map[string]any{"id": fmt.Sprint("call_", made), "type": "function", "function": map[string]any{"name": name, "arguments": arguments}}
}
