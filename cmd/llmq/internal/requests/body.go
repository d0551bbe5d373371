package requests

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"reflect"
	"strings"

	"github.com/llmqueue/llmqueue"
)

// body is what is read of a request's body.
type body struct {
	Model               *string  `json:"model"`
	Stream              *bool    `json:"stream"`
	Background          *bool    `json:"background"`
	MaxTokens           *float64 `json:"max_tokens"` // a number of JSON: 100.0 is one, too
	MaxCompletionTokens *float64 `json:"max_completion_tokens"`
	MaxOutputTokens     *float64 `json:"max_output_tokens"`
	N                   *float64 `json:"n"`
	Messages            any      `json:"messages"`
	System              any      `json:"system"`
	Input               any      `json:"input"`
	Prompt              any      `json:"prompt"`
	Instructions        any      `json:"instructions"`
	Tools               any      `json:"tools"`
	ResponseFormat      any      `json:"response_format"`
	EncodingFormat      any      `json:"encoding_format"`
	Dimensions          any      `json:"dimensions"`

	// Of the Gemini API, which takes the names of JSON and those of the schema:
	// protobuf.dev/programming-guides/json.
	Contents          any               `json:"contents"`
	SystemInstruction any               `json:"systemInstruction"`
	SystemOfSchema    any               `json:"system_instruction"`
	Generation        *generationConfig `json:"generationConfig"`
	GenerationSchema  *generationConfig `json:"generation_config"`
}

// generationConfig is that of ai.google.dev/api/generate-content.
type generationConfig struct {
	MaxOutputTokens       *float64 `json:"maxOutputTokens"`
	MaxOutputTokensSchema *float64 `json:"max_output_tokens"`
	CandidateCount        *float64 `json:"candidateCount"`
	CandidateCountSchema  *float64 `json:"candidate_count"`
}

// inspect completes a request by what its body says, and refuses what cannot be run.
func (f *Format) inspect(req *Request) error {
	var b body
	if err := json.Unmarshal(req.Body, &b); err != nil {
		if wrong := (*json.UnmarshalTypeError)(nil); errors.As(err, &wrong) && wrong.Field != "" {
			return fmt.Errorf("%q is a %s: want a %s", wrong.Field, wrong.Value, kindOf(wrong.Type))
		}
		return errors.New(`"body" is no JSON object`)
	}
	if req.Model != "" { // the path names it
		b.Model = &req.Model
	} else if b.Model == nil || *b.Model == "" {
		if f.Model == "" {
			return errors.New(`no "model": add it to the line, or give --model`)
		}
		if req.Body[0] != '{' {
			return errors.New(`"body" is no JSON object`)
		}
		req.Body = withFirst(without(req.Body, "model"), "model", f.Model)
		b.Model = &f.Model
	}
	if b.Stream != nil && *b.Stream {
		return errors.New(`"stream" is true: answers are kept whole, take it out`)
	}
	if b.Background != nil && *b.Background {
		return errors.New(`"background" is true: that answer would have to be fetched later, take it out`)
	}
	req.Model = *b.Model
	if req.Path == "" {
		if req.Path = f.Path; req.Path == "" {
			req.Path = b.path()
		}
	}
	counts, bounds := []*float64{b.N}, []*float64{b.MaxTokens, b.MaxOutputTokens, b.MaxCompletionTokens}
	for _, g := range []*generationConfig{b.Generation, b.GenerationSchema} {
		if g != nil {
			counts = append(counts, g.CandidateCount, g.CandidateCountSchema)
			bounds = append(bounds, g.MaxOutputTokens, g.MaxOutputTokensSchema)
		}
	}
	choices := int64(1)
	for _, n := range counts {
		if n != nil && *n > 1 {
			choices = int64(min(*n, 1<<10))
		}
	}
	for _, bound := range bounds {
		if bound != nil && *bound > 0 {
			req.Estimate.OutputTokens = int64(math.Ceil(min(*bound, 1<<32))) * choices
		}
	}
	var bytes int64
	for _, part := range []any{b.Messages, b.System, b.Input, b.Prompt, b.Instructions, b.Tools, b.ResponseFormat, b.Contents, b.SystemInstruction, b.SystemOfSchema} {
		bytes += textOf(part)
	}
	req.Estimate.InputTokens = max((bytes+3)/4, 1) // as llmqueue.EstimateTokens does for one text
	return nil
}

// kindOf is what JSON calls a type.
func kindOf(t reflect.Type) string {
	switch t.Kind() {
	case reflect.Float64:
		return "number"
	case reflect.Struct:
		return "object"
	}
	return t.String()
}

// path tells from a body what it asks for.
func (b *body) path() string {
	switch {
	case b.Messages != nil:
		return "/v1/chat/completions"
	case b.Input != nil && (b.EncodingFormat != nil || b.Dimensions != nil || strings.Contains(strings.ToLower(*b.Model), "embed")):
		return "/v1/embeddings"
	case b.Input != nil:
		return "/v1/responses"
	}
	return "/v1/completions"
}

// notText are the fields whose texts are no prompt: they name or carry something.
var notText = map[string]bool{
	"role": true, "type": true, "id": true, "call_id": true, "tool_call_id": true, "url": true, "image_url": true,
	"data": true, "file_data": true, "file_id": true, "detail": true, "media_type": true,
}

// textOf is the length in bytes of all texts in a part of a body. A token that is given
// as a number counts as four bytes.
func textOf(v any) (bytes int64) {
	switch v := v.(type) {
	case string:
		return int64(len(v))
	case float64:
		return 4
	case []any:
		for _, e := range v {
			bytes += textOf(e)
		}
	case map[string]any:
		for name, e := range v {
			if !notText[name] {
				bytes += textOf(e)
			}
		}
	}
	return bytes
}

// Guess is the usage of requests that do not bound their answer: as if it had as many
// tokens as fallback.
func (r *Request) Guess(fallback int64) llmqueue.Usage {
	u := r.Estimate
	if u.OutputTokens == 0 && !strings.HasSuffix(r.Path, "/embeddings") {
		u.OutputTokens = fallback
	}
	return u
}
