package llmhttp

import "bytes"

// scanner picks the few members of interest out of JSON documents of any size as
// their bytes come along. It copies those members, and nothing else, to a small
// document of the same shape, which encoding/json then reads.
//
// It takes single documents, arrays of them, one per line, and server-sent events,
// and finds out by the first byte which it has. Broken input gives broken findings,
// never an error: whoever reads the body will notice.
type scanner struct {
	findings
	progress
	framing framing
	events  events

	state   state
	nested  bool   // in one of the inner objects
	listed  bool   // in one of the lists
	key     []byte // what the value belongs to
	kept    []byte
	mark    int  // where the kept member begins
	from    int  // where its value begins
	telling bool // kept is worth reading
	keep    bool // the value is copied
	depth   int  // of containers within the value
	quoted  bool // within a string
	escaped bool // after a backslash
	scalar  bool // the value is a number or a literal
}

// maxKept bounds the memory for one answer. A usage object has some hundred bytes; a
// member that would take more is left out.
const maxKept = 64 << 10

type framing uint8

const (
	unknown framing = iota
	documents
	eventStream
	foreign // not JSON in any framing
)

type state uint8

const (
	outside  state = iota // before or after a document
	members               // where a member or the end of the object comes next
	inKey                 // in a member's name
	afterKey              // before its colon
	before                // before its value
	inValue
	elements // where one of a list or its end comes next
)

// What is kept, by where it stands. Anything else, such as a model's output or the
// arguments of a tool, may hold the same names without meaning the same.
var (
	topMembers   = names("usage", "usageMetadata", "error", "type", "object", "code", "param", "message", "Message", "__type", "detail", "prompt_eval_count", "eval_count", "done")
	inner        = names("message", "response", "delta", "x_groq")
	innerMembers = names("usage", "error", "finish_reason", "stop_reason")

	// What counts of a list's elements is kept as if it were the document's own.
	lists       = names("choices", "candidates")
	listMembers = names("error", "finish_reason", "finishReason")
)

func names(all ...string) map[string]bool {
	m := make(map[string]bool, len(all))
	for _, n := range all {
		m[n] = true
	}
	return m
}

const longestName = len("prompt_eval_count")

func (s *scanner) write(p []byte) {
	if s.framing == unknown {
		for len(p) > 0 && (space(p[0]) || p[0] >= 0x80) { // perhaps a byte order mark
			p = p[1:]
		}
		if len(p) == 0 {
			return
		}
		switch p[0] {
		case '{', '[':
			s.framing = documents
		case ':', 'd', 'e', 'i', 'r': // a comment, data, event, id, retry
			s.framing = eventStream
		default:
			s.framing = foreign
		}
	}
	switch s.framing {
	case foreign:
		s.output = true
	case documents:
		s.output = s.output || holdsAny(p)
		s.json(p)
	case eventStream:
		s.events.write(p, s)
	}
}

// reset forgets a document that did not end.
func (s *scanner) reset() { s.state, s.nested, s.listed = outside, false, false }

// plain takes what stands outside of documents.
func (s *scanner) plain(p []byte) {
	if s.framing == eventStream && holdsAny(p) {
		s.output = true
		s.over = s.over || bytes.IndexByte(p, '[') >= 0 // [DONE], which may come in pieces
	}
}

// holdsAny reports whether p is more than space, which keeps connections open.
func holdsAny(p []byte) bool {
	for _, c := range p {
		if !space(c) {
			return true
		}
	}
	return false
}

// json takes the next bytes of a document.
func (s *scanner) json(p []byte) {
	for len(p) > 0 {
		switch s.state {
		case inValue:
			p = s.value(p)
			continue
		case outside:
			i := bytes.IndexByte(p, '{')
			if i < 0 {
				s.plain(p)
				return
			}
			s.plain(p[:i])
			p = p[i:]
			s.state, s.telling, s.idle = members, false, false
			s.kept = append(s.kept[:0], '{')
		case members:
			switch p[0] {
			case '"':
				s.state, s.escaped, s.key = inKey, false, s.key[:0]
			case '}':
				switch {
				case s.nested && s.listed:
					s.nested, s.state = false, elements
				case s.nested:
					s.kept = append(s.kept, '}')
					s.nested = false
				default:
					s.kept = append(s.kept, '}')
					s.state = outside
					s.ended()
				}
			}
		case elements:
			switch {
			case p[0] == '{':
				s.nested, s.state = true, members
			case p[0] == ']':
				s.listed, s.state = false, members
			case p[0] == '}': // broken: no value begins so
				s.reset()
			case p[0] != ',' && !space(p[0]):
				s.keep = false
				s.enter(p[0])
				continue
			}
		case inKey:
			switch {
			case p[0] == '"' && !s.escaped:
				s.state = afterKey
			case len(s.key) <= longestName: // a name longer than all that count stays longer
				s.key = append(s.key, p[0])
			}
			s.escaped = p[0] == '\\' && !s.escaped
		case afterKey:
			if p[0] == ':' {
				s.state = before
			}
		case before:
			if !space(p[0]) {
				p = s.begin(p)
				continue
			}
		}
		p = p[1:]
	}
}

func space(c byte) bool { return c == ' ' || c == '\t' || c == '\n' || c == '\r' }

// begin looks at the first byte of a value.
func (s *scanner) begin(p []byte) []byte {
	if p[0] == '{' && !s.nested && inner[string(s.key)] {
		s.open()
		s.kept = append(s.kept, '{')
		s.nested, s.state = true, members
		return p[1:]
	}
	if p[0] == '[' && !s.nested && lists[string(s.key)] {
		if s.framing == eventStream && string(s.key) == "candidates" {
			s.recognize(geminiEvents)
		}
		s.listed, s.state = true, elements
		return p[1:]
	}
	if !s.nested && string(s.key) == "promptFeedback" {
		s.over = true // Gemini may have blocked the prompt
	}
	set := topMembers
	switch {
	case s.listed:
		set = listMembers
	case s.nested:
		set = innerMembers
	}
	s.keep = set[string(s.key)] && p[0] != 'n' // null says nothing
	if s.keep {
		s.open()
		switch string(s.key) {
		case "usage", "usageMetadata", "error", "prompt_eval_count", "eval_count":
			s.telling = true
		}
	}
	s.enter(p[0])
	return p
}

// enter begins a value with the byte c.
func (s *scanner) enter(c byte) {
	s.state, s.depth, s.quoted, s.escaped = inValue, 0, false, false
	s.scalar = c != '{' && c != '[' && c != '"'
}

// open begins a kept member.
func (s *scanner) open() {
	s.mark = len(s.kept)
	if s.kept[len(s.kept)-1] != '{' {
		s.kept = append(s.kept, ',')
	}
	s.kept = append(s.kept, '"')
	s.kept = append(s.kept, s.key...)
	s.kept = append(s.kept, '"', ':')
	s.from = len(s.kept)
}

// value takes the bytes of a value and returns those behind it.
func (s *scanner) value(p []byte) []byte {
	i, ended := s.valueEnd(p)
	if s.keep {
		if len(s.kept)+i > maxKept {
			s.keep, s.kept = false, s.kept[:s.mark]
		} else {
			s.kept = append(s.kept, p[:i]...)
		}
	}
	if ended {
		s.state = members
		if s.listed && !s.nested {
			s.state = elements
		}
		if s.keep {
			s.wholeMember(s.kept[s.from:])
		}
	}
	return p[i:]
}

// valueEnd finds where in p the value ends, if it does.
func (s *scanner) valueEnd(p []byte) (end int, ended bool) {
	if s.scalar {
		if i := bytes.IndexAny(p, ",}] \t\r\n"); i >= 0 {
			return i, true
		}
		return len(p), false
	}
	for i, c := range p {
		if s.quoted {
			switch {
			case s.escaped:
				s.escaped = false
			case c == '\\':
				s.escaped = true
			case c == '"':
				s.quoted = false
				if s.depth == 0 {
					return i + 1, true
				}
			}
			continue
		}
		switch c {
		case '"':
			s.quoted = true
		case '{', '[':
			s.depth++
		case '}', ']':
			if s.depth--; s.depth <= 0 {
				return i + 1, true
			}
		}
	}
	return len(p), false
}

// ended reads what was kept of a document that is complete.
func (s *scanner) ended() {
	if s.telling || s.failure || s.isError {
		s.take(s.kept)
	}
	if !s.idle && s.err == nil {
		s.output = true
	}
}
