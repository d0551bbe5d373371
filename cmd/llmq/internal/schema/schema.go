// Package schema checks answers against a JSON schema.
package schema

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

// Schema is a JSON schema that the text of an answer has to fit. Safe for concurrent use.
type Schema struct{ compiled *jsonschema.Schema }

// Read reads a schema, of draft 4 to 2020-12 as its $schema says, 2020-12 without one. A $ref
// may lead to other files, not into the network.
func Read(path string) (*Schema, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	document, err := jsonschema.UnmarshalJSON(strings.NewReader(string(data)))
	if err != nil {
		return nil, fmt.Errorf("%s is not valid JSON: %w", path, err)
	}
	if members, ok := document.(map[string]any); ok {
		for _, name := range []string{"json_schema", "schema"} {
			if _, ok := members[name]; ok {
				return nil, fmt.Errorf("%s is no schema but has one in its %q: put that into a file of its own", path, name)
			}
		}
	}
	compiler := jsonschema.NewCompiler()
	if err := compiler.AddResource(path, document); err != nil {
		return nil, fmt.Errorf("%s: %s", path, oneLine(err))
	}
	compiled, err := compiler.Compile(path)
	if err != nil {
		return nil, fmt.Errorf("%s: %s", path, oneLine(err))
	}
	return &Schema{compiled}, nil
}

// Lacks says in one line what an answer's texts lack to fit the schema, "" if each fits.
func (s *Schema) Lacks(path string, answer []byte) string {
	list := Texts(path, answer)
	if len(list) == 0 {
		return "it has no text"
	}
	for _, text := range list {
		value, err := jsonschema.UnmarshalJSON(strings.NewReader(text))
		if err != nil {
			return "its text is not valid JSON: " + oneLine(err)
		}
		if err := s.compiled.Validate(value); err != nil {
			return oneLine(err)
		}
	}
	return ""
}

// longest is how much is told of what does not fit, in bytes.
const longest = 300

// oneLine is an error of the library without its heading, which names the schema.
func oneLine(err error) string {
	lines := strings.Split(err.Error(), "\n")
	if len(lines) > 1 {
		lines = lines[1:]
	}
	for i, line := range lines {
		lines[i] = strings.TrimPrefix(strings.TrimSpace(line), "- ")
	}
	text := strings.Join(lines, "; ")
	if len(text) > longest {
		text = strings.ToValidUTF8(text[:longest], "") + "…"
	}
	return text
}

// texts say where an answer has its texts, by the end of the path: the names of members, lists
// in between are gone through. From the references that package caller names.
var texts = []struct {
	path, list string // each entry of the list is a text; "" for a single one
	within     string // names, separated by dots
}{
	{"/chat/completions", "choices", "message.content"},
	{"/completions", "choices", "text"},
	{"/responses", "", "output.content.text"},
	{"/messages", "", "content.text"},
	{":generateContent", "candidates", "content.parts.text"},
	{"/converse", "", "output.message.content.text"},
	{"/v2/chat", "", "message.content.text"},
	{"/api/chat", "", "message.content"},
}

// HasText reports whether it is known where answers of a path have their texts.
func HasText(path string) bool {
	for _, t := range texts {
		if strings.HasSuffix(path, t.path) {
			return true
		}
	}
	return false
}

// Texts are those of an answer: one, or one of each choice.
func Texts(path string, answer []byte) (list []string) {
	var value any
	if json.Unmarshal(answer, &value) != nil {
		return nil
	}
	for _, t := range texts {
		if !strings.HasSuffix(path, t.path) {
			continue
		}
		whole := []any{value}
		if t.list != "" {
			members, _ := value.(map[string]any)
			whole, _ = members[t.list].([]any)
		}
		for _, v := range whole {
			text := ""
			gather(v, strings.Split(t.within, "."), &text)
			list = append(list, text)
		}
		return list
	}
	return nil
}

// gather joins the texts that stand below the names. A thought or a reasoning has other types.
func gather(v any, names []string, text *string) {
	switch v := v.(type) {
	case []any:
		for _, e := range v {
			gather(e, names, text)
		}
	case map[string]any:
		switch {
		case v["thought"] == true || v["type"] == "reasoning" || v["type"] == "thinking":
		case len(names) > 0:
			gather(v[names[0]], names[1:], text)
		default: // a message whose content is a list of parts
			gather(v["text"], nil, text)
		}
	case string:
		if len(names) == 0 {
			*text += v
		}
	}
}
