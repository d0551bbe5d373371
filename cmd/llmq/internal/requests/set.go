package requests

import (
	"bytes"
	"encoding/json"
	"fmt"

	"github.com/llmqueue/llmqueue/cmd/llmq/internal/jsonwalk"
)

// keep gives the fields of a line that its result carries, by name, nil without any. A
// field that the line lacks is an error, as a template's is: it may be mistyped.
func (f *Format) keep(fields map[string]json.RawMessage) (map[string]json.RawMessage, error) {
	if len(f.Keep) == 0 {
		return nil, nil
	}
	kept := make(map[string]json.RawMessage, len(f.Keep))
	for _, name := range f.Keep {
		raw, ok := fields[name]
		if !ok {
			return nil, fmt.Errorf("no field %q to keep, there are %s", name, names(fields))
		}
		kept[name] = bytes.Clone(raw) // the line's buffer is used again
	}
	return kept, nil
}

// Size is how many bytes a request takes, about.
func (r *Request) Size() int64 {
	n := len(r.Body)
	for _, raw := range r.Kept {
		n += len(raw)
	}
	return int64(n)
}

// Replace is an object, which has to be valid, with another value of a member, or with that
// member besides. All else stays byte for byte.
func Replace(object []byte, name string, value json.RawMessage) []byte {
	return withFirst(without(object, name), name, value)
}

// WithModel is a body, which has to be valid, for another model. One that names none stays as it
// is: its path does.
func WithModel(body []byte, model string) []byte {
	for m := range jsonwalk.Members(body) {
		if string(m.Name) == "model" {
			raw, _ := json.Marshal(model)
			return Replace(body, "model", raw)
		}
	}
	return body
}
