package caller

import "strings"

// redacted stands where the key stood.
const redacted = "[key]"

// shortest is how long a key has to be, in bytes, to be replaced: real ones are longer, and
// a placeholder for a local server, such as "test", is a word that texts have anyway.
const shortest = 16

// redact takes the key out of a text that is no answer: an error, a log, what the provider
// says of a failure. It replaces the key alone, not a part of a longer word.
func (c *Caller) redact(s string) string {
	s = redactKey(s, c.config.Key)
	for _, key := range c.config.Hidden {
		s = redactKey(s, key)
	}
	return s
}

func redactKey(s, key string) string {
	if len(key) < shortest {
		return s
	}
	var b strings.Builder
	for done := 0; ; {
		i := strings.Index(s[done:], key)
		if i < 0 {
			b.WriteString(s[done:])
			return b.String()
		}
		from, to := done+i, done+i+len(key)
		b.WriteString(s[done:from])
		if isWord(s[:from], true) || isWord(s[to:], false) {
			b.WriteString(key)
		} else {
			b.WriteString(redacted)
		}
		done = to
	}
}

// isWord reports whether a text ends with, or begins with, a letter or digit. The letter of
// an escape such as \n in JSON is none.
func isWord(s string, end bool) bool {
	if s == "" {
		return false
	}
	c := s[0]
	if end {
		c = s[len(s)-1]
		if len(s) > 1 && s[len(s)-2] == '\\' {
			return false
		}
	}
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
}
