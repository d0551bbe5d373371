package llmhttp

import "bytes"

// events takes the data out of server-sent events, as the bytes come along.
type events struct {
	line    line
	matched int  // how much of "data:" the line begins with
	cr      bool // the last byte was a carriage return: a line feed belongs to it
}

// line is what is known of the line that comes along.
type line uint8

const (
	empty line = iota
	naming
	data
	other
)

const field = "data:"

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
			e.line = other
			if p[0] == field[e.matched] {
				e.matched++
				e.line = naming
				if e.matched == len(field) {
					e.line = data
				}
			}
			p = p[1:]
		default:
			n := bytes.IndexAny(p, "\r\n")
			if n < 0 {
				n = len(p)
			}
			if e.line == data {
				s.json(p[:n])
			}
			p = p[n:]
		}
	}
}

// endLine ends the event at an empty line. The data of an event may have several
// lines, which are one document.
func (e *events) endLine(s *scanner) {
	if e.line == empty {
		s.reset()
	}
	e.line, e.matched = empty, 0
}
