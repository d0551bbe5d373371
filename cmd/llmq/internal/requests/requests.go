// Package requests reads a file of requests, lines, an array or a table: lines of the
// providers' batch formats, plain request bodies, or any fields that a template turns into
// prompts.
package requests

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"text/template"

	"github.com/llmqueue/llmqueue"
	"github.com/llmqueue/llmqueue/cmd/llmq/internal/jsonwalk"
)

// Request is one line, element of an array or row of a table.
type Request struct {
	Line  int64 // from 1; in an array the element's number
	ID    string
	Model string
	Path  string // such as /v1/chat/completions
	Body  []byte
	Kept  map[string]json.RawMessage // fields of the line, for its result
	// Estimate is what it may use: its text by llmqueue.EstimateTokens, and what it
	// bounds its answer to, 0 when it does not.
	Estimate llmqueue.Usage
}

// LineError says what is wrong with a line, and what to do.
type LineError struct {
	File string
	Line int64
	Err  error
}

func (e *LineError) Error() string { return fmt.Sprintf("%s:%d: %v", e.File, e.Line, e.Err) }
func (e *LineError) Unwrap() error { return e.Err }

// Format says how lines become requests.
type Format struct {
	Template *template.Template // nil: lines are requests already
	Model    string             // for lines that name none
	System   string             // with Template: the system's message
	// MaxTokens bounds the answers of a template's requests; 0 does not. MaxTokensField
	// is what the provider calls that in a chat completion.
	MaxTokens      int64
	MaxTokensField string
	Path           string // for lines that name none; empty: as the body tells
	IDField        string // the field whose value is the id; empty: custom_id
	Input          string // one of Inputs; empty: as the name and the first byte tell
	// Set are members that a template's bodies have besides.
	Set  map[string]json.RawMessage
	Keep []string // fields of a line that its result carries; each line has to have them
}

// ParseTemplate reads a template over the fields of a line, such as {{.question}}.
func ParseTemplate(text string) (*template.Template, error) {
	t, err := template.New("template").Option("missingkey=error").Funcs(template.FuncMap{
		"json": func(v any) (string, error) { b, err := json.Marshal(v); return string(b), err },
	}).Parse(text)
	if err != nil {
		return nil, errors.New(strings.TrimPrefix(err.Error(), "template: "))
	}
	return t, nil
}

func (f *Format) parse(line []byte, n int64) (*Request, error) {
	if !jsonwalk.Valid(line) || line[0] != '{' {
		return nil, noObject(line)
	}
	fields := make(map[string]json.RawMessage, 8)
	for m := range jsonwalk.Members(line) {
		fields[string(m.Name)] = m.Value
	}
	form := f.formOf(fields)
	id, err := f.id(fields, form, n)
	if err != nil {
		return nil, err
	}
	req := &Request{Line: n, ID: id}
	if req.Kept, err = f.keep(fields); err != nil {
		return nil, err
	}
	switch {
	case f.Template != nil:
		err = f.fill(req, line, fields)
	case form != nil:
		err = f.batch(req, form, fields)
	default:
		err = f.plain(req, line, fields)
	}
	if err != nil {
		return nil, err
	}
	return req, f.inspect(req)
}

// noObject says why a line is no JSON object.
func noObject(line []byte) error {
	var fields map[string]json.RawMessage
	err, at := json.Unmarshal(line, &fields), (*json.SyntaxError)(nil)
	switch {
	case errors.As(err, &at) && err.Error() != "unexpected end of JSON input":
		return fmt.Errorf("not valid JSON at byte %d: %w: correct the line or take it out", at.Offset, err)
	case errors.As(err, &at):
		return errors.New("the JSON object does not end on this line: write one object a line")
	}
	return errors.New("not a JSON object: write one object a line")
}

// id is the value of the id's field, or names the line.
func (f *Format) id(fields map[string]json.RawMessage, form *form, n int64) (string, error) {
	name := "custom_id"
	switch {
	case f.IDField != "":
		name = f.IDField
	case form != nil:
		name = form.id
	}
	raw, ok := fields[name]
	if !ok {
		if f.IDField != "" {
			return "", fmt.Errorf("no field %q for the id, there are %s", name, names(fields))
		}
		if form != nil {
			return "", fmt.Errorf("no %q beside %q: give each request one of its own", form.id, form.body)
		}
		return "line-" + strconv.FormatInt(n, 10), nil
	}
	switch c := raw[0]; {
	case c == '"':
		if id := string(jsonwalk.Text(raw)); id != "" && len(id) <= 512 {
			return id, nil
		}
	case c == '-' || c >= '0' && c <= '9':
		return string(raw), nil
	}
	return "", fmt.Errorf("%q is %.40s: want a text of 1 to 512 bytes, or a number", name, raw)
}

func (f *Format) plain(req *Request, line []byte, fields map[string]json.RawMessage) error {
	if !isPlain(fields) {
		return fmt.Errorf(`no request: want "messages" or "input", or "custom_id" and "body", or give a --template over %s`, names(fields))
	}
	field := f.IDField
	if field == "" {
		field = "custom_id"
	}
	if fields[field] == nil {
		req.Body = slices.Clone(line)
		return nil
	}
	req.Body = without(line, field) // ours, not the provider's
	return nil
}

// fill makes a request of the template.
func (f *Format) fill(req *Request, line []byte, fields map[string]json.RawMessage) error {
	decoder := json.NewDecoder(bytes.NewReader(line))
	decoder.UseNumber()
	row := map[string]any{}
	if err := decoder.Decode(&row); err != nil {
		return err
	}
	var text strings.Builder
	if err := f.Template.Execute(&text, row); err != nil {
		if _, missing, ok := strings.Cut(err.Error(), "map has no entry for key "); ok {
			return fmt.Errorf("the template wants a field %s, there are %s", missing, names(fields))
		}
		return fmt.Errorf("the template does not fit: %w", err)
	}
	body := map[string]any{"model": f.Model}
	switch path := f.Path; {
	case strings.HasSuffix(path, "/embeddings"):
		body["input"] = text.String()
	case strings.HasSuffix(path, "/responses"):
		body["input"] = text.String()
		if f.System != "" {
			body["instructions"] = f.System
		}
		if f.MaxTokens > 0 {
			body["max_output_tokens"] = f.MaxTokens
		}
	default:
		type message struct {
			Role    string `json:"role"`
			Content string `json:"content"`
		}
		messages := []message{{"user", text.String()}}
		if f.System != "" {
			messages = []message{{"system", f.System}, messages[0]}
		}
		body["messages"] = messages
		if f.MaxTokens > 0 {
			body[f.MaxTokensField] = f.MaxTokens
		}
	}
	for name, value := range f.Set {
		body[name] = value
	}
	var err error
	req.Body, err = json.Marshal(body)
	return err
}

func names(fields map[string]json.RawMessage) string {
	list := make([]string, 0, len(fields))
	for name := range fields {
		list = append(list, name)
	}
	slices.Sort(list)
	if len(list) > 12 {
		list = append(list[:12], "…")
	}
	if len(list) == 0 {
		return "no fields"
	}
	return strings.Join(list, ", ")
}
