// Package ids writes and reads the ids of requests to which the caller gave none. Such an id
// says where the request is kept, so that finding it needs no map.
package ids

import (
	"math/bits"
	"strconv"
	"strings"
	"unsafe"
)

const (
	// base writes the numbers in an id: a power of two costs no division.
	base = 32
	// prefixLength is the longest that a prefix may be.
	prefixLength = 9
	// maxLength is that of an id: a prefix, 64 bits, a dash and 32 bits.
	maxLength = prefixLength + 13 + 1 + 7
	// block is how many bytes of ids Cut makes at once.
	block = 1024
)

// New is the id of the request with that number and that handle. prefix has at most 9 bytes.
func New(prefix string, seq uint64, handle uint32) string {
	var b [maxLength]byte
	return string(appendID(b[:0], prefix, seq, handle))
}

// Cut is New for who makes many: it cuts the id from a block, which begins as nil.
func Cut(from *[]byte, prefix string, seq uint64, handle uint32) string {
	b := *from
	if cap(b)-len(b) < maxLength {
		b = make([]byte, 0, block)
	}
	n := len(b)
	b = appendID(b, prefix, seq, handle)
	*from = b
	return unsafe.String(&b[n], len(b)-n) // nothing writes to these bytes again
}

// Parse reads what New wrote. Numbers can be written in several ways; only the id itself counts.
func Parse(prefix, id string) (seq uint64, handle uint32, ok bool) {
	numbers, ok := strings.CutPrefix(id, prefix)
	if !ok {
		return 0, 0, false
	}
	first, second, ok := strings.Cut(numbers, "-")
	if !ok {
		return 0, 0, false
	}
	seq, err := strconv.ParseUint(first, base, 64)
	if err != nil {
		return 0, 0, false
	}
	h, err := strconv.ParseUint(second, base, 32)
	if err != nil || New(prefix, seq, uint32(h)) != id {
		return 0, 0, false
	}
	return seq, uint32(h), true
}

func appendID(b []byte, prefix string, seq uint64, handle uint32) []byte {
	b = append(b, prefix...)
	b = appendNumber(b, seq)
	b = append(b, '-')
	return appendNumber(b, uint64(handle))
}

// appendNumber is strconv.AppendUint in base 32, in a third of the time.
func appendNumber(b []byte, n uint64) []byte {
	const digits = "0123456789abcdefghijklmnopqrstuv"
	for shift := (bits.Len64(n|1) - 1) / 5 * 5; shift >= 0; shift -= 5 {
		b = append(b, digits[n>>shift&31])
	}
	return b
}
