package requests

import (
	"bytes"
	"encoding/json"
	"slices"

	"github.com/llmqueue/llmqueue/cmd/llmq/internal/jsonwalk"
)

// without is an object, which has to be valid, without the members of a name. All else stays
// byte for byte.
func without(object []byte, name string) []byte {
	object = bytes.Clone(object)
	for i := 0; ; {
		list := slices.Collect(jsonwalk.Members(object))
		for i < len(list) && string(list[i].Name) != name {
			i++
		}
		if i == len(list) {
			return object
		}
		from, to := list[i].From, list[i].To
		switch {
		case i+1 < len(list):
			to += bytes.IndexByte(object[to:], ',') + 1
		case i > 0:
			from = list[i-1].To
		}
		object = append(object[:from], object[to:]...)
	}
}

// withFirst is an object, which has to be valid, with a member before the others.
func withFirst(object []byte, name string, value any) []byte {
	text, _ := json.Marshal(map[string]any{name: value})
	text = text[1 : len(text)-1]
	if !jsonwalk.IsEmpty(object) {
		text = append(text, ',')
	}
	at := bytes.IndexByte(object, '{') + 1
	return append(append(bytes.Clone(object[:at]), text...), object[at:]...)
}
