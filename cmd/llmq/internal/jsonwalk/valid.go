package jsonwalk

import "encoding/binary"

// maxDepth is how deep containers may lie in each other: as many as encoding/json takes.
const maxDepth = 10_000

// Valid reports whether data is one JSON value, as json.Valid does. It reads long strings, such
// as images, eight bytes at a time.
func Valid(data []byte) bool {
	var few [32]byte
	open := few[:0] // the containers that are open, by their first bytes
	i := space(data, 0)
	for i < len(data) {
		ok := true
		switch c := data[i]; {
		case c == '{' || c == '[':
			if len(open) == maxDepth {
				return false
			}
			open = append(open, c)
			if i = space(data, i+1); i < len(data) && data[i] == c+2 { // it is empty: } and ] are two behind
				break
			}
			if c == '{' {
				if i, ok = name(data, i); !ok {
					return false
				}
			}
			continue
		case c == '"':
			i, ok = validString(data, i)
		case c == '-' || c >= '0' && c <= '9':
			i, ok = number(data, i)
		case c == 't':
			i, ok = literal(data, i, "true")
		case c == 'f':
			i, ok = literal(data, i, "false")
		case c == 'n':
			i, ok = literal(data, i, "null")
		default:
			return false
		}
		if !ok {
			return false
		}
		// Behind a value: another one, or the ends of what holds it.
		for {
			if i = space(data, i); len(open) == 0 {
				return i == len(data)
			}
			if i == len(data) {
				return false
			}
			in := open[len(open)-1]
			if data[i] == in+2 {
				open = open[:len(open)-1]
				i++
				continue
			}
			if data[i] != ',' {
				return false
			}
			if i = space(data, i+1); in == '{' {
				if i, ok = name(data, i); !ok {
					return false
				}
			}
			break
		}
	}
	return false
}

// space is where something else than space comes, from i on.
func space(data []byte, i int) int {
	for i < len(data) && IsSpace(data[i]) {
		i++
	}
	return i
}

// name reads a member's name with its colon, and the space behind it.
func name(data []byte, i int) (int, bool) {
	if i == len(data) || data[i] != '"' {
		return i, false
	}
	i, ok := validString(data, i)
	if i = space(data, i); !ok || i == len(data) || data[i] != ':' {
		return i, false
	}
	return space(data, i+1), true
}

func literal(data []byte, i int, word string) (int, bool) {
	end := i + len(word)
	return end, end <= len(data) && string(data[i:end]) == word
}

// number reads a number: an integer, a fraction and an exponent.
func number(data []byte, i int) (end int, ok bool) {
	if data[i] == '-' {
		i++
	}
	from := i
	if i = digits(data, i); i == from || i > from+1 && data[from] == '0' {
		return i, false
	}
	if i < len(data) && data[i] == '.' {
		from = i + 1
		if i = digits(data, from); i == from {
			return i, false
		}
	}
	if i < len(data) && data[i]|0x20 == 'e' {
		if i++; i < len(data) && (data[i] == '+' || data[i] == '-') {
			i++
		}
		from = i
		if i = digits(data, from); i == from {
			return i, false
		}
	}
	return i, true
}

func digits(data []byte, i int) int {
	for i < len(data) && data[i] >= '0' && data[i] <= '9' {
		i++
	}
	return i
}

// validString reads the string that begins at i.
func validString(data []byte, i int) (end int, ok bool) {
	for i++; i < len(data); {
		if i+8 <= len(data) && plain(binary.LittleEndian.Uint64(data[i:])) {
			i += 8
			continue
		}
		switch c := data[i]; {
		case c == '"':
			return i + 1, true
		case c < ' ':
			return i, false
		case c != '\\':
			i++
			continue
		}
		if i++; i == len(data) {
			return i, false
		}
		switch data[i] {
		case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
			i++
		case 'u':
			for range 4 {
				if i++; i == len(data) || !hexadecimal(data[i]) {
					return i, false
				}
			}
			i++
		default:
			return i, false
		}
	}
	return i, false
}

// plain reports whether eight bytes are surely no quotes, backslashes or control characters.
// That x has a byte of zero, or one below n, shows in the highest bits of (x - n) &^ x.
func plain(w uint64) bool {
	const ones, highest = 0x0101010101010101, 0x8080808080808080
	quotes, backslashes := w^ones*'"', w^ones*'\\'
	return ((quotes-ones)&^quotes|(backslashes-ones)&^backslashes|(w-ones*' ')&^w)&highest == 0
}

func hexadecimal(c byte) bool {
	return c >= '0' && c <= '9' || c|0x20 >= 'a' && c|0x20 <= 'f'
}
