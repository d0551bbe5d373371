package llmhttp_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/llmqueue/llmqueue/llmhttp"
)

func TestParseRequest(t *testing.T) {
	base64 := strings.Repeat("iVBORw0KGgoAAAANSUhEUgAA", 100)
	type call = llmhttp.ModelCall
	for _, c := range []struct {
		name, path, body string
		want             call
	}{
		{"openai chat", "/v1/chat/completions", `{"model":"gpt-4o","messages":[{"role":"user","content":"12345678"}],"max_tokens":50}`, call{Asks: true, Model: "gpt-4o", InputTokens: 2 + 8, MaxOutputTokens: 50}},
		{"spaces, several answers", "/v1/chat/completions", "{ \"n\" : 3,\n \"stream\" : true , \"model\" : \"gpt-4o\", \"max_completion_tokens\" : 100.0 }", call{Asks: true, Model: "gpt-4o", Stream: true, MaxOutputTokens: 300}},
		{"a name with an escaped slash", "/v1/chat/completions", `{"model":"openai\/gpt-4o"}`, call{Asks: true, Model: "openai/gpt-4o"}},
		{"openai responses", "/v1/responses", `{"model":"o4-mini","input":"1234","max_output_tokens":20,"stream":true}`, call{Asks: true, Model: "o4-mini", Stream: true, InputTokens: 1, MaxOutputTokens: 20}},
		{"embeddings of token ids", "/v1/embeddings", `{"model":"e","input":[[1,2,3],[4, 5]]}`, call{Asks: true, Model: "e", InputTokens: 5, NoOutput: true}},
		{"embeddings of texts", "/v1/embeddings", `{"input":["12345678","1234"],"model":"e"}`, call{Asks: true, Model: "e", InputTokens: 3, NoOutput: true}},
		{"an image in the body", "/v1/chat/completions", `{"model":"m","messages":[{"content":[{"type":"text","text":"hi"},{"image_url":{"url":"data:image/png;base64,` + base64 + `"}}]}]}`, call{Asks: true, Model: "m", InputTokens: 1000 + 2}},
		{"an image elsewhere", "/v1/chat/completions", `{"model":"m","messages":[{"content":[{"image_url":{"url":"https://x.example/a.png"}}]}]}`, call{Asks: true, Model: "m", InputTokens: 1000}},
		{"anthropic", "/v1/messages", `{"max_tokens":1024,"messages":[{"role":"user","content":"12345678"}],"model":"claude","system":"1234"}`, call{Asks: true, Model: "claude", InputTokens: 3 + 8, MaxOutputTokens: 1024}},
		{"names within a tool's schema", "/v1/messages", `{"model":"claude","tools":[{"input_schema":{"properties":{"model":{"default":"x"},"max_tokens":{"default":9},"stream":true}}}]}`, call{Asks: true, Model: "claude", InputTokens: 1}},
		{"gemini", "/v1beta/models/gemini-2.0-flash:generateContent", `{"contents":[{"parts":[{"text":"12345678"}]}],"generationConfig":{"maxOutputTokens":64,"candidateCount":2}}`, call{Asks: true, Model: "gemini-2.0-flash", InputTokens: 2, MaxOutputTokens: 128}},
		{"gemini, images of Ollama's kind", "/v1beta/models/g:streamGenerateContent", `{"contents":[{"parts":[{"inline_data":{"mime_type":"","data":"` + base64 + `"}}]}]}`, call{Asks: true, Model: "g", Stream: true, InputTokens: 1000}},
		{"gemini embeddings", "/v1beta/models/e:batchEmbedContents", `{"requests":[{"model":"models/e","content":{"parts":[{"text":"1234"}]}}]}`, call{Asks: true, Model: "e", InputTokens: 3, NoOutput: true}},
		{"gemini as openai", "/v1beta/openai/chat/completions", `{"model":"models/g"}`, call{Asks: true, Model: "g"}},
		{"vertex", "/v1/projects/p/locations/l/publishers/anthropic/models/claude@1:streamRawPredict", `{"max_tokens":5}`, call{Asks: true, Model: "claude@1", Stream: true, MaxOutputTokens: 5}},
		{"azure", "/openai/deployments/my%20gpt/chat/completions", `{"model":"ignored"}`, call{Asks: true, Model: "my gpt"}},
		{"bedrock", "/model/anthropic.claude%3A0/converse-stream", `{"inferenceConfig":{"maxTokens":7}}`, call{Asks: true, Model: "anthropic.claude:0", Stream: true, MaxOutputTokens: 7}},
		{"ollama", "/api/chat", `{"model":"llama3","options":{"num_predict":9},"messages":[{"content":"hi","images":["` + base64 + `"]}]}`, call{Asks: true, Model: "llama3", InputTokens: 1001, MaxOutputTokens: 9}},
		{"no bound", "/api/generate", `{"model":"llama3","options":{"num_predict":-1}}`, call{Asks: true, Model: "llama3"}},
		{"replicate", "/v1/models/meta/llama-3/predictions", `{"input":{"prompt":"1234"}}`, call{Asks: true, Model: "meta/llama-3", InputTokens: 1}},
		{"cloudflare", "/client/v4/accounts/a/ai/run/@cf/meta/llama", `{"prompt":"1234"}`, call{Asks: true, Model: "@cf/meta/llama", InputTokens: 1}},
		{"counting tokens is no call", "/v1/messages/count_tokens", `{"model":"claude"}`, call{}},
		{"nor is counting at Gemini", "/v1beta/models/g:countTokens", `{}`, call{}},
		{"nor a batch", "/v1/batches", `{"model":"m"}`, call{}},
		{"nor a fine-tuning job", "/v1/fine_tuning/jobs", `{"model":"m"}`, call{}},
		{"nor what names no model", "/v1/containers", `{"name":"c"}`, call{}},
		{"unless its path says so", "/v1/chat/completions", `{"messages":[]}`, call{Asks: true}},
		{"a body that is cut", "/v1/chat/completions", `{"model":"m","messages":[{"content":"12345678`, call{Asks: true, Model: "m"}},
		{"a body that is no JSON", "/v1/chat/completions", `<html>"model":"m"`, call{Asks: true}},
		{"brackets without end", "/v1/chat/completions", `{"model":"m","x":` + strings.Repeat("[", 5000), call{Asks: true, Model: "m"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			assert.Equal(t, c.want, llmhttp.ParseRequest(c.path, []byte(c.body)))
		})
	}
}

// A body may come in any pieces, and is then read as it is in one.
func FuzzParseRequest(f *testing.F) {
	f.Add("/v1/chat/completions", `{"model":"a\/b","max_tokens":1e2,"input":[1,[2]],"x":"\u00e9\"","stream":true}`)
	f.Add("/v1beta/models/g:generateContent", `{"contents":[{"parts":[{"text":"hi"}]}]}`)
	f.Fuzz(func(t *testing.T, path, body string) {
		want := llmhttp.ParseRequest(path, []byte(body))
		assert.Equal(t, want, llmhttp.ParseRequestPieces(path, []byte(body)))
		assert.GreaterOrEqual(t, want.InputTokens, int64(0))
		assert.LessOrEqual(t, want.InputTokens, int64(len(body)*1000))
	})
}
