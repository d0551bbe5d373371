package llmhttp

import (
	"bytes"
	"sync"
)

// scanner reads JSON documents of any size as their bytes come along, and keeps of each the
// few values whose places are in the tree: see places.go. When a document has ended it hands
// them to the answer; of the rest it keeps nothing.
//
// It takes single documents, lists of them, one per line, server-sent events and Amazon's
// event streams, and finds out by the first byte which it has. Broken input gives broken
// findings, never an error: whoever reads the body will notice.
type scanner struct {
	answer
	framing framing
	events  events
	frames  frames

	state  state
	depth  int // of the containers that are open and have places in the tree
	open   [maxDepth]container
	listed int // lists that are open outside of documents
	doc    document

	key     []byte // what the next value belongs to, in lower case
	node    *node  // of the value that comes along; nil when nothing of it counts
	from    int    // where it begins in doc.bytes
	inner   int    // containers that are open within a value of no interest
	quoted  bool   // within a string
	escaped bool   // after a backslash
}

// container is an object or a list that has places in the tree.
type container struct {
	node *node
	list bool
}

// document is what was kept of one. Its memory is used again.
type document struct {
	bytes  []byte
	values []value
}

// value is one that was kept: where its bytes are, as they came.
type value struct {
	fact     fact
	key      int // where the name begins of one that may have any, before from
	from, to int // nothing for an object
	object   bool
}

const (
	maxDepth  = 12
	maxKept   = 64 << 10 // bytes of one document
	maxValues = 256      // of one document

	// maxText is how much is kept of one value: a message may be a page.
	maxText = 4 << 10
)

type framing uint8

const (
	unknown framing = iota
	documents
	eventStream
	amazonFrames
	foreign // nothing that can be understood
)

type state uint8

const (
	outside  state = iota // before or after a document
	members               // where a member or the end of the object comes next
	inKey                 // in a member's name
	afterKey              // before its colon
	before                // before its value
	elements              // where one of a list or its end comes next
	inString              // of a value that counts
	inScalar              // a number or a literal
	skipping              // in a value of no interest
)

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
		case 0: // of a length
			s.framing = amazonFrames
		default:
			s.framing = foreign
			s.page = p[0] == '<'
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
	case amazonFrames:
		s.frames.write(p, s)
	}
}

// scanners are those that have read their answer, whose memory the next ones use.
var scanners = sync.Pool{New: func() any { return new(scanner) }}

func newScanner() *scanner { return scanners.Get().(*scanner) }

// release gives the scanner up. What it found stays whole: none of it is in that memory.
func (s *scanner) release() {
	*s = scanner{key: s.key[:0], doc: document{s.doc.bytes[:0], s.doc.values[:0]}}
	scanners.Put(s)
}

// reset forgets a document that did not end.
func (s *scanner) reset() { s.state, s.depth = outside, 0 }

// plain takes what stands outside of documents.
func (s *scanner) plain(p []byte) {
	if s.framing == eventStream {
		if holdsAny(p) {
			s.output = true
			s.over = s.over || bytes.IndexByte(p, '[') >= 0 // [DONE], which may come in pieces
		}
		return
	}
	for _, c := range p {
		switch c {
		case '[':
			s.listed++
		case ']':
			s.listed--
		}
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

func space(c byte) bool { return c == ' ' || c == '\t' || c == '\n' || c == '\r' }

// json takes the next bytes of a document.
func (s *scanner) json(p []byte) {
	for len(p) > 0 {
		switch s.state {
		case skipping:
			p = s.skip(p)
			continue
		case inString:
			p = s.text(p)
			continue
		case inScalar:
			p = s.scalar(p)
			continue
		case outside:
			i := bytes.IndexByte(p, '{')
			if i < 0 {
				s.plain(p)
				return
			}
			s.plain(p[:i])
			p = p[i:]
			s.doc.bytes, s.doc.values = s.doc.bytes[:0], s.doc.values[:0]
			s.enter(root, false)
		case members:
			switch p[0] {
			case '"':
				s.state, s.escaped, s.key = inKey, false, s.key[:0]
			case '}':
				s.leave()
			}
		case elements:
			switch c := p[0]; {
			case c == ']':
				s.leave()
			case c == '}': // broken: no value begins so
				s.reset()
			case c != ',' && !space(c):
				p = s.begin(p, s.open[s.depth-1].node.elements)
				continue
			}
		case inKey:
			s.name(p[0])
		case afterKey:
			if p[0] == ':' {
				s.state = before
			}
		case before:
			if !space(p[0]) {
				p = s.begin(p, s.open[s.depth-1].node.member(s.key))
				continue
			}
		}
		p = p[1:]
	}
}

// name takes the next byte of a member's name. One that is longer than all that count stays
// longer.
func (s *scanner) name(c byte) {
	switch {
	case c == '"' && !s.escaped:
		s.state = afterKey
	case len(s.key) <= longestName:
		if c >= 'A' && c <= 'Z' {
			c += 'a' - 'A'
		}
		s.key = append(s.key, c)
	}
	s.escaped = c == '\\' && !s.escaped
}

// enter opens a container that has places.
func (s *scanner) enter(n *node, list bool) {
	s.open[s.depth] = container{n, list}
	s.depth++
	s.next()
}

// leave closes the innermost container.
func (s *scanner) leave() {
	if s.depth--; s.depth > 0 {
		s.next()
		return
	}
	s.state = outside
	s.ended()
}

// next goes on behind a value, or at the beginning of a container.
func (s *scanner) next() {
	s.state = members
	if s.open[s.depth-1].list {
		s.state = elements
	}
}

// begin looks at the first byte of a value whose node is n.
func (s *scanner) begin(p []byte, n *node) []byte {
	if n == nil || len(s.doc.values) == maxValues {
		return s.ignore(p)
	}
	switch p[0] {
	case '{':
		for _, f := range n.facts {
			s.doc.values = append(s.doc.values, value{fact: f, object: true})
		}
		if n.members == nil {
			return s.ignore(p)
		}
		s.enter(n, false)
		return p[1:]
	case '[':
		for _, f := range n.facts {
			if f.role == roleMilestone {
				s.doc.values = append(s.doc.values, value{fact: f, object: true})
			}
		}
		if n.elements == nil {
			return s.ignore(p)
		}
		s.enter(n, true)
		return p[1:]
	}
	if len(n.facts) == 0 || p[0] == 'n' { // null says nothing
		return s.ignore(p)
	}
	s.node = n
	if n.named {
		s.doc.bytes = append(s.doc.bytes, s.key...)
	}
	s.from = len(s.doc.bytes)
	if p[0] == '"' {
		s.state, s.escaped = inString, false
		s.doc.bytes = append(s.doc.bytes, '"')
		return p[1:]
	}
	s.state = inScalar
	return p
}

// ignore begins a value of no interest.
func (s *scanner) ignore(p []byte) []byte {
	s.node = nil
	switch p[0] {
	case '{', '[':
		s.state, s.inner, s.quoted, s.escaped = skipping, 1, false, false
	case '"':
		s.state, s.inner, s.quoted, s.escaped = skipping, 0, true, false
	default:
		s.state = inScalar
		return p
	}
	return p[1:]
}

// skip passes over a value of no interest and returns what is behind it.
func (s *scanner) skip(p []byte) []byte {
	for i, c := range p {
		if s.quoted {
			switch {
			case s.escaped:
				s.escaped = false
			case c == '\\':
				s.escaped = true
			case c == '"':
				if s.quoted = false; s.inner == 0 {
					s.next()
					return p[i+1:]
				}
			}
			continue
		}
		switch c {
		case '"':
			s.quoted = true
		case '{', '[':
			s.inner++
		case '}', ']':
			if s.inner--; s.inner == 0 {
				s.next()
				return p[i+1:]
			}
		}
	}
	return nil
}

// text takes the bytes of a string that counts.
func (s *scanner) text(p []byte) []byte {
	for i, c := range p {
		switch {
		case s.escaped:
			s.escaped = false
		case c == '\\':
			s.escaped = true
		case c == '"':
			s.keep(p[:i])
			s.doc.bytes = append(s.doc.bytes, '"')
			s.whole()
			return p[i+1:]
		}
	}
	s.keep(p)
	return nil
}

// scalar takes the bytes of a number or a literal.
func (s *scanner) scalar(p []byte) []byte {
	i := bytes.IndexAny(p, ",}] \t\r\n")
	if i < 0 {
		i = len(p)
	}
	if s.node != nil {
		s.keep(p[:i])
	}
	if i < len(p) {
		s.whole()
	}
	return p[i:]
}

// keep appends to the value that comes along, as far as there is room.
func (s *scanner) keep(p []byte) {
	room := s.node.room - (len(s.doc.bytes) - s.from)
	if room = min(room, maxKept-len(s.doc.bytes)); room > 0 {
		s.doc.bytes = append(s.doc.bytes, p[:min(room, len(p))]...)
	}
}

// whole ends a value.
func (s *scanner) whole() {
	if s.node != nil {
		for _, f := range s.node.facts {
			v := value{fact: f, key: s.from, from: s.from, to: len(s.doc.bytes)}
			if s.node.named {
				v.key -= len(s.key)
			}
			s.doc.values = append(s.doc.values, v)
		}
	}
	s.next()
}

// ended hands on what was kept of a document that is complete.
func (s *scanner) ended() {
	s.answer.take(&s.doc, s.framing == eventStream)
	if !s.idle && s.err == nil {
		s.output = true
	}
}
