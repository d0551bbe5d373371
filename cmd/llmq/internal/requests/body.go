package requests

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strings"

	"github.com/llmqueue/llmqueue"
	"github.com/llmqueue/llmqueue/cmd/llmq/internal/jsonwalk"
)

// body is what is read of a request's body. Members that are missing or null are nil.
type body struct {
	model                              *string
	stream, background                 bool
	maxTokens, maxOutput, maxCompleted float64 // the bounds of the answer; 0: none
	choices                            float64
	messages, input                    bool // they are there
	embedding                          bool // it has what only an embedding has
	text                               int64
}

// read reads a body's members.
func (b *body) read(object []byte) (err error) {
	for m := range jsonwalk.Members(object) {
		if string(m.Value) == "null" {
			continue
		}
		switch string(m.Name) {
		case "model":
			model := string(jsonwalk.Text(m.Value))
			if b.model = &model; m.Value[0] != '"' {
				err = wrongKind("model", m.Value, "string")
			}
		case "stream":
			err = read(m, "bool", &b.stream)
		case "background":
			err = read(m, "bool", &b.background)
		case "max_tokens":
			err = read(m, "number", &b.maxTokens) // a number of JSON: 100.0 is one, too
		case "max_output_tokens":
			err = read(m, "number", &b.maxOutput)
		case "max_completion_tokens":
			err = read(m, "number", &b.maxCompleted)
		case "n":
			err = read(m, "number", &b.choices)
		case "encoding_format", "dimensions":
			b.embedding = true
		// Those of the Gemini API, which takes the names of JSON and those of the schema:
		// protobuf.dev/programming-guides/json.
		case "generationConfig", "generation_config":
			err = b.generation(m)
		case "messages":
			b.messages = true
			b.text += textOf(m.Value)
		case "input":
			b.input = true
			b.text += textOf(m.Value)
		case "prompt", "system", "instructions", "tools", "response_format",
			"contents", "content", "systemInstruction", "system_instruction":
			b.text += textOf(m.Value)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// generation reads the generationConfig of ai.google.dev/api/generate-content.
func (b *body) generation(config jsonwalk.Member) (err error) {
	if config.Value[0] != '{' {
		return wrongKind(string(config.Name), config.Value, "object")
	}
	for m := range jsonwalk.Members(config.Value) {
		switch string(m.Name) {
		case "maxOutputTokens", "max_output_tokens":
			err = read(m, "number", &b.maxOutput)
		case "candidateCount", "candidate_count":
			err = read(m, "number", &b.choices)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// read reads the value of a member that has to be of a kind.
func read[T any](m jsonwalk.Member, kind string, into *T) error {
	if json.Unmarshal(m.Value, into) != nil {
		return wrongKind(string(m.Name), m.Value, kind)
	}
	return nil
}

func wrongKind(name string, value []byte, want string) error {
	is := "number"
	switch value[0] {
	case '"':
		is = "string"
	case '{':
		is = "object"
	case '[':
		is = "list"
	case 't', 'f':
		is = "bool"
	}
	return fmt.Errorf("%q is a %s: want a %s", name, is, want)
}

// inspect completes a request by what its body says, and refuses what cannot be run.
func (f *Format) inspect(req *Request) error {
	var b body
	if req.Body[0] != '{' {
		return errors.New(`"body" is no JSON object`)
	}
	if err := b.read(req.Body); err != nil {
		return err
	}
	if req.Model != "" { // the path names it
		b.model = &req.Model
	} else if b.model == nil || *b.model == "" {
		if f.Model == "" {
			return errors.New(`no "model": add it to the line, or give --model`)
		}
		req.Body = withFirst(without(req.Body, "model"), "model", f.Model)
		b.model = &f.Model
	}
	if b.stream {
		return errors.New(`"stream" is true: answers are kept whole, take it out`)
	}
	if b.background {
		return errors.New(`"background" is true: that answer would have to be fetched later, take it out`)
	}
	req.Model = *b.model
	if req.Path == "" {
		if req.Path = f.Path; req.Path == "" {
			req.Path = b.path()
		}
	}
	choices := int64(max(1, min(b.choices, 1<<10)))
	for _, bound := range []float64{b.maxTokens, b.maxOutput, b.maxCompleted} {
		if bound > 0 {
			req.Estimate.OutputTokens = int64(math.Ceil(min(bound, 1<<32))) * choices
		}
	}
	req.Estimate.InputTokens = max((b.text+3)/4, 1) // as llmqueue.EstimateTokens does for one text
	return nil
}

// path tells from a body what it asks for.
func (b *body) path() string {
	switch {
	case b.messages:
		return "/v1/chat/completions"
	case b.input && (b.embedding || strings.Contains(strings.ToLower(*b.model), "embed")):
		return "/v1/embeddings"
	case b.input:
		return "/v1/responses"
	}
	return "/v1/completions"
}

// notText reports whether the texts of a member are no prompt: they name or carry something.
func notText(name []byte) bool {
	switch string(name) {
	case "role", "type", "id", "call_id", "tool_call_id", "url", "image_url",
		"data", "file_data", "file_id", "detail", "media_type":
		return true
	}
	return false
}

// textOf is the length in bytes of all texts in a part of a body. A token that is given
// as a number counts as four bytes.
func textOf(part []byte) (bytes int64) {
	for v := range jsonwalk.Texts(part, notText) {
		if v[0] == '"' {
			bytes += int64(jsonwalk.Length(v))
		} else {
			bytes += 4
		}
	}
	return bytes
}

// Guess is the usage of requests that do not bound their answer: as if it had as many
// tokens as fallback.
func (r *Request) Guess(fallback int64) llmqueue.Usage {
	u := r.Estimate
	if u.OutputTokens == 0 && !strings.HasSuffix(r.Path, "/embeddings") && !strings.HasSuffix(r.Path, embedContent) {
		u.OutputTokens = fallback
	}
	return u
}
