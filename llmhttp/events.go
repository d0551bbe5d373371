package llmhttp

import "bytes"

// events takes the data out of server-sent events, as the bytes come along.
type events struct {
	line  line
	name  []byte // of the line's field
	event []byte // the event's own name
	size  int    // of the event's data so far
	cr    bool   // the last byte was a carriage return: a line feed belongs to it
}

// line is what is known of the line that comes along.
type line uint8

const (
	empty   line = iota
	naming       // its field
	event        // the event's name
	data         // JSON, usually
	failure      // data that is an error
	other
)

const (
	longestField = len("event") // that counts
	longestEvent = len("keepalive")

	// longestPing is how much data an event may have that does not tell in the end that it
	// is a part of the answer.
	longestPing = 256
)

func (e *events) write(p []byte, s *scanner) {
	for len(p) > 0 {
		if c := p[0]; c == '\n' || c == '\r' {
			if c == '\r' || !e.cr {
				e.endLine(s)
			}
			e.cr = c == '\r'
			p = p[1:]
			continue
		}
		e.cr = false
		switch e.line {
		case empty, naming:
			e.nameField(p[0], s)
			p = p[1:]
		default:
			n := bytes.IndexAny(p, "\r\n")
			if n < 0 {
				n = len(p)
			}
			e.value(p[:n], s)
			p = p[n:]
		}
	}
}

// nameField takes the next byte of a field's name. A line without one is a comment.
func (e *events) nameField(c byte, s *scanner) {
	switch {
	case c != ':' && len(e.name) < longestField:
		e.line = naming
		e.name = append(e.name, c)
		return
	case c != ':':
		e.line = other // no field of an event stream: a text
		s.output = true
		return
	}
	switch string(e.name) {
	case "data":
		e.line = data
		if string(e.event) == "error" {
			e.line = failure
		}
	case "event":
		e.line = event
		e.event = e.event[:0]
	case "error": // llama.cpp
		e.line = failure
	default:
		e.line = other
	}
}

// value takes the next bytes of a field's value.
func (e *events) value(p []byte, s *scanner) {
	switch e.line {
	case event:
		for _, c := range p {
			if c != ' ' && len(e.event) <= longestEvent { // a longer name stays longer
				e.event = append(e.event, c)
			}
		}
	case data, failure:
		had := s.output
		if begin := bytes.TrimLeft(p, " \t"); string(e.name) == "error" && s.state == outside && len(begin) > 0 && begin[0] != '{' {
			e.line, s.output = other, true // a text that begins so
			return
		}
		s.isError = e.line == failure
		s.failed = s.failed || s.isError && holdsAny(p)
		s.json(p)
		e.size += len(p)
		s.output = s.output || e.size > longestPing
		switch {
		case s.isError:
			s.output = had
		case string(e.event) == "ping", string(e.event) == "keepalive", string(e.event) == "heartbeat":
			s.output = had
		}
	}
}

// endLine ends the event at an empty line. The data of an event may have several
// lines, which are one document.
func (e *events) endLine(s *scanner) {
	if e.line == empty {
		s.reset()
		e.event, e.size = e.event[:0], 0
	}
	e.line, e.name = empty, e.name[:0]
}
