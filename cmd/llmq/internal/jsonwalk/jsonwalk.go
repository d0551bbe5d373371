// Package jsonwalk goes through JSON that is known to be valid, as it stands: it builds no
// values and copies nothing. But for Valid, what it is given has to be valid, or it
// panics.
package jsonwalk

import (
	"bytes"
	"encoding/json"
	"iter"
	"unicode/utf8"
)

// Member is one of an object.
type Member struct {
	Name     []byte // without quotes and escapes
	Value    []byte // as it stands
	From, To int    // where the object has it, from its name to the end of its value
}

// Members gives the members of an object in their order. A name may come more than once.
func Members(object []byte) iter.Seq[Member] {
	return func(yield func(Member) bool) {
		i := bytes.IndexByte(object, '{') + 1
		for {
			for IsSpace(object[i]) || object[i] == ',' {
				i++
			}
			if object[i] == '}' {
				return
			}
			m := Member{From: i}
			i = stringEnd(object, i)
			m.Name = Text(object[m.From:i])
			for IsSpace(object[i]) || object[i] == ':' {
				i++
			}
			m.To = End(object, i)
			m.Value = object[i:m.To]
			if i = m.To; !yield(m) {
				return
			}
		}
	}
}

// Elements gives the elements of a list, as they stand.
func Elements(list []byte) iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		i := bytes.IndexByte(list, '[') + 1
		for {
			for IsSpace(list[i]) || list[i] == ',' {
				i++
			}
			if list[i] == ']' {
				return
			}
			from := i
			if i = End(list, i); !yield(list[from:i]) {
				return
			}
		}
	}
}

// End is where the value ends that begins at i.
func End(data []byte, i int) int {
	for depth := 0; ; {
		switch data[i] {
		case '"':
			i = stringEnd(data, i)
		case '{', '[':
			depth++
			i++
			continue
		case '}', ']':
			depth--
			i++
		case ',', ':', ' ', '\t', '\r', '\n': // between the values of a container
			i++
			continue
		default:
			for i++; i < len(data) && !ends(data[i]); i++ {
			}
		}
		if depth == 0 {
			return i
		}
	}
}

// ends reports whether a number or a literal ends before c.
func ends(c byte) bool { return c == ',' || c == '}' || c == ']' || IsSpace(c) }

// stringEnd is where the string ends that begins at i.
func stringEnd(data []byte, i int) int {
	for i++; ; i++ {
		i += bytes.IndexByte(data[i:], '"')
		escapes := 0
		for data[i-1-escapes] == '\\' {
			escapes++
		}
		if escapes%2 == 0 {
			return i + 1
		}
	}
}

// Text is a string without its quotes and escapes; nil of any other value.
func Text(quoted []byte) []byte {
	if quoted[0] != '"' {
		return nil
	}
	plain := quoted[1 : len(quoted)-1]
	if bytes.IndexByte(plain, '\\') < 0 && utf8.Valid(plain) {
		return plain
	}
	var s string
	_ = json.Unmarshal(quoted, &s)
	return []byte(s)
}

// Texts gives the texts and the numbers of a value at any depth, as they stand: a text with its
// quotes. Values of members that skip names are left out, with all that they hold.
func Texts(value []byte, skip func(name []byte) bool) iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		for i := 0; i < len(value); {
			from := i
			switch c := value[i]; {
			case c == '"':
				i = stringEnd(value, i)
				rest := i
				for rest < len(value) && IsSpace(value[rest]) {
					rest++
				}
				if rest == len(value) || value[rest] != ':' {
					break
				}
				for rest++; IsSpace(value[rest]); {
					rest++
				}
				if i = rest; skip(Text(value[from : from+stringEnd(value[from:], 0)])) {
					i = End(value, i)
				}
				continue
			case c == '-' || c >= '0' && c <= '9':
				i = End(value, i)
			default:
				i++
				continue
			}
			if !yield(value[from:i]) {
				return
			}
		}
	}
}

// Length is how many bytes a text has, as UTF-8: of a string as it stands, with its quotes.
func Length(quoted []byte) int {
	n := 0
	for s := quoted[1 : len(quoted)-1]; ; {
		i := bytes.IndexByte(s, '\\')
		if i < 0 {
			return n + len(s)
		}
		n += i
		switch s = s[i+1:]; s[0] {
		case 'u':
			var r rune
			for _, c := range s[1:5] {
				r = r<<4 | digit(c)
			}
			n += size(r)
			s = s[5:]
		default:
			n++
			s = s[1:]
		}
	}
}

// digit is the value of a hexadecimal digit.
func digit(c byte) rune {
	switch {
	case c <= '9':
		return rune(c - '0')
	case c <= 'F':
		return rune(c-'A') + 10
	}
	return rune(c-'a') + 10
}

// size is how many bytes an escaped character has. One of the two halves of a larger one, which
// has four, has two.
func size(r rune) int {
	if r >= 0xD800 && r < 0xE000 {
		return 2
	}
	return utf8.RuneLen(r)
}

// IsSpace reports whether JSON may have c between values.
func IsSpace(c byte) bool { return c == ' ' || c == '\t' || c == '\n' || c == '\r' }

// IsEmpty reports whether a value is missing, null, or an object or a list of nothing.
func IsEmpty(value []byte) bool {
	value = bytes.TrimSpace(value)
	switch {
	case len(value) == 0, string(value) == "null":
		return true
	case value[0] == '{' || value[0] == '[':
		return len(bytes.TrimSpace(value[1:len(value)-1])) == 0
	}
	return false
}
