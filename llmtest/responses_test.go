package llmtest

import (
	"encoding/base64"
	"encoding/binary"
	"math"
	"strings"
	"testing"
)

func TestAnswersResponses(t *testing.T) {
	s := NewServer(t, OpenAI(TPM(1000)), InMemory(), WithOutputTokens(3, 0))
	res, body := send(t, s, "/v1/responses", `{"model":"gpt-5","input":"wordword","instructions":"word","max_output_tokens":100}`)
	got := decode[response](t, body)
	if res.StatusCode != 200 || got.Object != "response" || got.Status != "completed" || got.ID != "resp_00000000" || got.Model != "gpt-5" ||
		len(got.Output) != 1 || len(strings.Fields(got.Output[0].Content[0].Text)) != 3 || got.Output[0].Role != "assistant" {
		t.Errorf("%s: %s", res.Status, body)
	}
	if u := got.Usage; u == nil || u.InputTokens != 3 || u.OutputTokens != 3 || u.TotalTokens != 6 {
		t.Errorf("usage %+v", u)
	}
	wantQuota(t, res.Header, "", "", "", "1000", "897", "6.18s")

	_, body = send(t, s, "/v1/responses", `{"model":"m","max_output_tokens":2,"input":[{"role":"user","content":[{"type":"input_text","text":"word"}]},{"role":"user","content":"word"},{"type":"function_call_output","output":"word"}]}`)
	if got := decode[response](t, body); got.Status != "incomplete" || got.IncompleteDetails.Reason != "max_output_tokens" || got.Usage.InputTokens != 3 || got.Usage.OutputTokens != 2 {
		t.Errorf("cut short: %s", body)
	}
	for body, param := range map[string]string{`{"input":"a"}`: `"model"`, `{"model":"m"}`: `"input"`, `{"model":"m","input":null}`: `"input"`,
		`{"model":"m","input":"a","max_output_tokens":0}`: `"max_output_tokens"`, `{"model":"m","input":3}`: "null", `{`: "null"} {
		if res, got := send(t, s, "/v1/responses", body); res.StatusCode != 400 || !strings.Contains(got, `"param":`+param) {
			t.Errorf("%s: %s %s", body, res.Status, got)
		}
	}
}

func TestStreamsResponses(t *testing.T) {
	s := NewServer(t, OpenAI(), InMemory(), WithOutputTokens(2, 0))
	_, body := send(t, s, "/v1/responses", `{"model":"gpt-5","input":"word","stream":true}`)
	var types []string
	var text strings.Builder
	var last responseEvent
	for event := range strings.SplitSeq(strings.TrimSuffix(body, "\n\n"), "\n\n") {
		name, data, _ := strings.Cut(event, "\ndata: ")
		e := decode[responseEvent](t, data)
		if name != "event: "+e.Type || e.SequenceNumber != len(types) {
			t.Errorf("event %d is %s: %s", len(types), name, data)
		}
		if e.Delta != nil {
			text.WriteString(*e.Delta)
		}
		types, last = append(types, e.Type), e
	}
	const want = "response.created response.in_progress response.output_item.added response.content_part.added response.output_text.delta " +
		"response.output_text.delta response.output_text.done response.content_part.done response.output_item.done response.completed"
	if got := strings.Join(types, " "); got != want {
		t.Errorf("events %s\nwant   %s", got, want)
	}
	if r := last.Response; r == nil || r.Status != "completed" || r.Output[0].Content[0].Text != text.String() || r.Usage.InputTokens != 1 || r.Usage.OutputTokens != 2 {
		t.Errorf("the last event: %+v", r)
	}
}

func TestAnswersEmbeddings(t *testing.T) {
	s := NewServer(t, OpenAI(TPM(100)), InMemory())
	type list struct {
		Object string
		Data   []struct {
			Index     int
			Embedding []float64
		}
		Usage struct {
			Prompt int64 `json:"prompt_tokens"`
			Total  int64 `json:"total_tokens"`
		}
	}
	res, body := send(t, s, "/v1/embeddings", `{"model":"text-embedding-3-small","input":["word","wordword","word"]}`)
	got := decode[list](t, body)
	if res.StatusCode != 200 || len(got.Data) != 3 || got.Data[2].Index != 2 || got.Usage.Prompt != 4 || got.Usage.Total != 4 {
		t.Fatalf("%s: %.300s", res.Status, body)
	}
	wantQuota(t, res.Header, "", "", "", "100", "96", "2.4s")
	length := 0.0
	for i, x := range got.Data[0].Embedding {
		length += x * x
		if x != got.Data[2].Embedding[i] || x == got.Data[1].Embedding[i] {
			t.Fatalf("number %d: the same text has to have the same vector, another text another", i)
		}
	}
	if len(got.Data[0].Embedding) != 1536 || math.Abs(length-1) > 1e-4 {
		t.Errorf("%d numbers of length %v", len(got.Data[0].Embedding), length)
	}
	_, body = send(t, s, "/v1/embeddings", `{"model":"m","input":[[1,2,3],[4,5]],"dimensions":8}`)
	if got := decode[list](t, body); len(got.Data) != 2 || len(got.Data[0].Embedding) != 8 || got.Usage.Total != 5 {
		t.Errorf("tokens: %s", body)
	}
	_, body = send(t, s, "/v1/embeddings", `{"model":"m","input":[1,2,3],"dimensions":8}`)
	numbers := decode[list](t, body)
	_, body = send(t, s, "/v1/embeddings", `{"model":"m","input":[1,2,3],"dimensions":8,"encoding_format":"base64"}`)
	encoded := decode[struct{ Data []struct{ Embedding string } }](t, body)
	data, err := base64.StdEncoding.DecodeString(encoded.Data[0].Embedding)
	if err != nil || len(data) != 32 || len(numbers.Data) != 1 || math.Float32frombits(binary.LittleEndian.Uint32(data[28:])) != float32(numbers.Data[0].Embedding[7]) {
		t.Errorf("base64 %v: %s", err, body)
	}
	for _, body := range []string{`{"input":"a"}`, `{"model":"m"}`, `{"model":"m","input":[]}`, `{"model":"m","input":{}}`, `{"model":"m","input":[{}]}`, `{"model":"m","input":"a","dimensions":0}`} {
		if res, got := send(t, s, "/v1/embeddings", body); res.StatusCode != 400 || !strings.Contains(got, "invalid_request_error") {
			t.Errorf("%s: %s %s", body, res.Status, got)
		}
	}
}
