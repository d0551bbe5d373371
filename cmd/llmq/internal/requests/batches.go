package requests

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// form is a provider's format of the lines of a batch.
type form struct {
	body, id string // the members that make one
	members  []string
	name     string
}

// forms, from platform.openai.com/docs/guides/batch,
// docs.anthropic.com/en/docs/build-with-claude/batch-processing and
// ai.google.dev/gemini-api/docs/batch-api.
var forms = []form{
	{"body", "custom_id", []string{"body", "custom_id", "method", "url"}, "Batch format"},
	{"params", "custom_id", []string{"custom_id", "params"}, "Anthropic batch format"},
	{"request", "key", []string{"key", "request"}, "Gemini batch format"},
}

// formOf is the form of a line, nil for a plain body.
func (f *Format) formOf(fields map[string]json.RawMessage) *form {
	if f.Template != nil {
		return nil
	}
	for i := range forms {
		if fields[forms[i].body] != nil && (i == 0 || !isPlain(fields)) {
			return &forms[i]
		}
	}
	return nil
}

func isPlain(fields map[string]json.RawMessage) bool {
	return fields["messages"] != nil || fields["input"] != nil || fields["prompt"] != nil
}

// batch takes the request out of a line of a batch.
func (f *Format) batch(req *Request, form *form, fields map[string]json.RawMessage) error {
	for name := range fields {
		if !slices.Contains(form.members, name) && name != f.IDField {
			return fmt.Errorf("unknown field %q beside %q: a line of the %s has %s", name, form.body, form.name, strings.Join(form.members, ", "))
		}
	}
	req.Body = slices.Clone([]byte(fields[form.body]))
	switch form.body {
	case "params":
		req.Path = "/v1/messages"
		return nil
	case "request":
		return f.gemini(req)
	}
	var method string
	if raw := fields["method"]; raw != nil {
		if json.Unmarshal(raw, &method) != nil || method != "POST" {
			return fmt.Errorf("\"method\" is %.40s: only \"POST\" is known", raw)
		}
	}
	if raw := fields["url"]; raw != nil {
		if json.Unmarshal(raw, &req.Path) != nil || !strings.HasPrefix(req.Path, "/") || strings.ContainsAny(req.Path, "?#") || strings.Contains(req.Path, "..") {
			return fmt.Errorf("\"url\" is %.80s: want a path such as \"/v1/chat/completions\"", raw)
		}
	}
	return nil
}

// gemini tells where a request of the Gemini API goes: its model stands in the path, as
// ai.google.dev/api/generate-content has it, and in no line unless the line says so.
func (f *Format) gemini(req *Request) error {
	var b struct {
		Model string `json:"model"`
	}
	if json.Unmarshal(req.Body, &b) != nil || req.Body[0] != '{' {
		return errors.New(`"request" is no JSON object with a "model" that is a text, or none`)
	}
	if b.Model == "" {
		b.Model = f.Model
	}
	req.Model = strings.TrimPrefix(b.Model, "models/")
	switch {
	case req.Model == "":
		return errors.New(`no "model": the lines of a Gemini batch name none, give --model`)
	case strings.ContainsAny(req.Model, "?#:") || strings.Contains(req.Model, ".."):
		return fmt.Errorf("the model %.80q is no name such as gemini-2.5-flash", req.Model)
	case strings.Contains(req.Model, "/"): // tunedModels/…
		req.Path = "/v1beta/" + req.Model + ":generateContent"
	default:
		req.Path = "/v1beta/models/" + req.Model + ":generateContent"
	}
	return nil
}
