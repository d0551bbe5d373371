package llmtest

import (
	"encoding/binary"
	"encoding/json"
	"hash/crc32"
)

// frame sends a frame of Amazon's event streams. Its kind is "event" or
// "exception", its type is of the event or the exception, and v is its payload.
//
// A frame is, in big endian, its length and that of its headers, a checksum of
// both, the headers, the payload, and a checksum of all before it. A header is its
// name's length in a byte, the name, the type of its value (7 is a string), the
// value's length in two bytes, and the value. Checksums are CRC-32 (IEEE). Amazon
// documents it (docs.aws.amazon.com/AmazonS3/latest/API/RESTSelectObjectAppendix.html,
// docs.aws.amazon.com/transcribe/latest/dg/event-stream.html).
func (e *events) frame(kind, typ string, v any) {
	const prelude, checksum = 12, 4
	payload, err := json.Marshal(v)
	if err != nil {
		if e.err == nil {
			e.err = err
		}
		return
	}
	buf := append(e.buf[:0], make([]byte, prelude)...)
	for _, h := range [...][2]string{{":" + kind + "-type", typ}, {":content-type", "application/json"}, {":message-type", kind}} {
		buf = append(append(buf, byte(len(h[0]))), h[0]...)
		buf = binary.BigEndian.AppendUint16(append(buf, 7), uint16(len(h[1])))
		buf = append(buf, h[1]...)
	}
	headers := len(buf) - prelude
	buf = append(buf, payload...)
	binary.BigEndian.PutUint32(buf, uint32(len(buf)+checksum))
	binary.BigEndian.PutUint32(buf[4:], uint32(headers))
	binary.BigEndian.PutUint32(buf[8:], crc32.ChecksumIEEE(buf[:8]))
	e.buf = binary.BigEndian.AppendUint32(buf, crc32.ChecksumIEEE(buf))
	e.write(e.buf)
}

// chunk sends what a model says, as InvokeModelWithResponseStream hands it on: encoded
// in base64.
func (e *events) chunk(v any) {
	data, err := json.Marshal(v)
	if err != nil && e.err == nil {
		e.err = err
	}
	e.frame("event", "chunk", map[string][]byte{"bytes": data})
}
