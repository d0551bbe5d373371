package llmhttp

import "encoding/binary"

// frames takes the JSON payloads out of Amazon's event streams (application/
// vnd.amazon.eventstream, of ConverseStream and InvokeModelWithResponseStream), as the
// bytes come along. A message is
//
//	total length, length of the headers, checksum of both   4 bytes each
//	headers                                                 name, type and value of each
//	payload
//	checksum                                                4 bytes
//
// Checksums are the SDK's business. The source is the event stream encoding of
// smithy.io/2.0/aws/amazon-eventstream.html.
type frames struct {
	head   []byte // prelude and headers, as far as they came
	left   int    // of the payload
	tail   int    // of the checksum
	failed bool   // the message is an exception
}

const (
	preludeSize  = 12
	checksumSize = 4
	maxHeaders   = 8 << 10
	maxMessage   = 24 << 20 // more than a message may have
)

func (f *frames) write(p []byte, s *scanner) {
	for len(p) > 0 {
		switch {
		case f.left > 0:
			n := min(f.left, len(p))
			s.isError = f.failed
			s.json(p[:n])
			if f.left -= n; f.left == 0 {
				s.reset()
			}
			p = p[n:]
		case f.tail > 0:
			n := min(f.tail, len(p))
			f.tail -= n
			p = p[n:]
		default:
			want := preludeSize
			if len(f.head) >= preludeSize {
				want += int(binary.BigEndian.Uint32(f.head[4:]))
			}
			n := min(want-len(f.head), len(p))
			f.head = append(f.head, p[:n]...)
			p = p[n:]
			if len(f.head) == want && !f.begin(s, want) {
				s.framing, s.output = foreign, true
				return
			}
		}
	}
}

// begin looks at what stands before a payload. It reports whether it makes sense.
func (f *frames) begin(s *scanner, size int) bool {
	total := int64(binary.BigEndian.Uint32(f.head))
	headers := int64(binary.BigEndian.Uint32(f.head[4:]))
	if headers > maxHeaders || total > maxMessage || total < preludeSize+headers+checksumSize {
		return false
	}
	if headers > 0 && size == preludeSize {
		return true // they come next
	}
	f.left, f.tail = int(total-preludeSize-headers-checksumSize), checksumSize
	f.headers(s, f.head[preludeSize:])
	f.head = f.head[:0]
	s.output = s.output || !f.failed
	return true
}

// headers reads what a message is. All that count are strings, which have type 7.
func (f *frames) headers(s *scanner, p []byte) {
	f.failed, s.exception = false, ""
	for len(p) > 1 {
		name, rest, ok := cutBytes(p[1:], int(p[0]))
		if !ok || len(rest) < 3 || rest[0] != 7 {
			return
		}
		value, rest, ok := cutBytes(rest[3:], int(binary.BigEndian.Uint16(rest[1:])))
		if !ok {
			return
		}
		switch string(name) {
		case ":event-type":
			s.milestone("event", value)
		case ":message-type":
			if kind := string(value); kind == "exception" || kind == "error" {
				f.failed, s.failed = true, true
			}
		case ":exception-type", ":error-code":
			s.exception = string(value)
		}
		p = rest
	}
}

// cutBytes splits p behind n bytes.
func cutBytes(p []byte, n int) (head, tail []byte, ok bool) {
	if n > len(p) {
		return nil, nil, false
	}
	return p[:n], p[n:], true
}
