package results

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"strconv"
)

// Hash is 64 bits of the SHA-256 of a request's path and body, so that an answer is not taken
// for that of another question: two that differ share it with a chance of 2⁻⁶⁴. It is 0 where
// none is known. In JSON it is a text of 16 hexadecimal digits.
type Hash uint64

// HashOf is the hash of a request.
func HashOf(path string, body []byte) Hash {
	h := sha256.New()
	h.Write([]byte(path))
	h.Write([]byte{0})
	h.Write(body)
	return Hash(binary.BigEndian.Uint64(h.Sum(nil)))
}

// MarshalText writes the digits.
func (h Hash) MarshalText() ([]byte, error) { return h.append(nil), nil }

func (h Hash) append(b []byte) []byte {
	return hex.AppendEncode(b, binary.BigEndian.AppendUint64(nil, uint64(h)))
}

// UnmarshalText reads the digits; what is none is no hash.
func (h *Hash) UnmarshalText(text []byte) error {
	n, _ := strconv.ParseUint(string(text), 16, 64)
	*h = Hash(n)
	return nil
}
