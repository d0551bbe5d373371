package sdktest

import (
	"fmt"
	"io"
	"net/http"
	"time"
)

// seen is one answer as it passes.
type seen struct {
	wire         *wire
	src          io.ReadCloser
	began, ended time.Time // ended is when the last of it passed
	status       int
	header       http.Header
	err          error
	hash         uint64 // of the body
	size         int64
	over         error // how the body ended
}

func (s *seen) String() string {
	return fmt.Sprintf("%d, %d bytes (%x), %v, ended with %v, %v", s.status, s.size, s.hash, s.err, s.over, s.header)
}

func (s *seen) Read(p []byte) (int, error) {
	n, err := s.src.Read(p)
	s.wire.mu.Lock()
	defer s.wire.mu.Unlock()
	for _, b := range p[:n] { // FNV-1a, however the bytes come in pieces
		s.hash = (s.hash ^ uint64(b)) * 0x100000001b3
	}
	s.size += int64(n)
	if err != nil && s.over == nil {
		s.over = err
	}
	s.ended = time.Now()
	return n, err
}

// Close reads the rest of a failure first, which SDKs leave unread: it too has to be
// what the provider sent.
func (s *seen) Close() error {
	if s.status >= 400 {
		_, _ = io.Copy(io.Discard, readerOnly{s})
	}
	err := s.src.Close()
	s.wire.mu.Lock()
	defer s.wire.mu.Unlock()
	s.ended = time.Now()
	return err
}

type readerOnly struct{ io.Reader }
