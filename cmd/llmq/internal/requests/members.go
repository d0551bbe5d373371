package requests

import (
	"bytes"
	"encoding/json"
)

// member is where one of an object begins, with its name, and where its value ends.
type member struct {
	name     string
	from, to int
}

// membersOf lists the members of a JSON object, which has to be valid, as they stand.
func membersOf(object []byte) (list []member) {
	i := bytes.IndexByte(object, '{') + 1
	for {
		for isSpace(object[i]) || object[i] == ',' {
			i++
		}
		if object[i] == '}' {
			return list
		}
		m := member{from: i}
		i = valueEnd(object, i)
		_ = json.Unmarshal(object[m.from:i], &m.name)
		for isSpace(object[i]) || object[i] == ':' {
			i++
		}
		i = valueEnd(object, i)
		m.to = i
		list = append(list, m)
	}
}

// valueEnd is where the value ends that begins at i.
func valueEnd(text []byte, i int) int {
	depth := 0
	for quoted := false; ; i++ {
		switch c := text[i]; {
		case quoted:
			if c == '\\' {
				i++
			} else if c == '"' {
				quoted = false
			}
		case c == '"':
			quoted = true
		case c == '{' || c == '[':
			depth++
			continue
		case c == '}' || c == ']':
			depth--
		default:
			if next := text[i+1]; depth > 0 || !isSpace(next) && next != ',' && next != '}' && next != ']' {
				continue
			}
		}
		if depth == 0 && !quoted {
			return i + 1
		}
	}
}

func isSpace(c byte) bool { return c == ' ' || c == '\t' || c == '\n' || c == '\r' }

// without is an object, which has to be valid, without the members of a name. All else stays
// byte for byte.
func without(object []byte, name string) []byte {
	object = bytes.Clone(object)
	for i := 0; ; {
		list := membersOf(object)
		for i < len(list) && list[i].name != name {
			i++
		}
		if i == len(list) {
			return object
		}
		from, to := list[i].from, list[i].to
		switch {
		case i+1 < len(list):
			to += bytes.IndexByte(object[to:], ',') + 1
		case i > 0:
			from = list[i-1].to
		}
		object = append(object[:from], object[to:]...)
	}
}

// withFirst is an object, which has to be valid, with a member before the others.
func withFirst(object []byte, name string, value any) []byte {
	text, _ := json.Marshal(map[string]any{name: value})
	text = text[1 : len(text)-1]
	if len(membersOf(object)) > 0 {
		text = append(text, ',')
	}
	at := bytes.IndexByte(object, '{') + 1
	return append(append(bytes.Clone(object[:at]), text...), object[at:]...)
}
