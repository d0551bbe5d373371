package requests

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/klauspost/compress/zstd"
)

// Source is where requests come from: a file, which can be read several times, or standard
// input, which cannot.
type Source struct {
	name   string
	stdin  io.Reader // if not nil, it is that
	file   *os.File
	size   int64
	remove string // a temporary file
}

// ErrStopped says that opening was given up.
var ErrStopped = errors.New("stopped")

// Open opens a file, or standard input if its name is "-". What can be read only once, such
// as a pipe that has a name, is copied into a temporary file: a value on stop gives that up
// with ErrStopped.
func Open(name string, stdin io.Reader, stop <-chan os.Signal) (*Source, error) {
	if name == "-" {
		return &Source{name: "stdin", stdin: stdin}, nil
	}
	type opened struct {
		source *Source
		err    error
	}
	done := make(chan opened, 1)
	go func() { // a pipe waits for who writes it
		s, err := openFile(name)
		done <- opened{s, err}
	}()
	select {
	case o := <-done:
		return o.source, o.err
	case <-stop:
		return nil, ErrStopped
	}
}

func openFile(name string) (*Source, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("cannot read the requests: %w", err)
	}
	info, err := f.Stat()
	switch {
	case err != nil:
		return nil, errors.Join(fmt.Errorf("cannot read the requests: %w", err), f.Close())
	case info.IsDir():
		return nil, errors.Join(fmt.Errorf("cannot read the requests: %s is a folder, name a file", name), f.Close())
	case info.Mode().IsRegular():
		return &Source{name: name, file: f, size: info.Size()}, nil
	}
	defer f.Close()
	spool, err := os.CreateTemp("", "llmq-requests-*")
	if err != nil {
		return nil, fmt.Errorf("cannot keep the requests of %s: %w", name, err)
	}
	s := &Source{name: name, file: spool, remove: spool.Name()}
	if os.Remove(s.remove) == nil { // where that can be done to an open file, a kill leaves nothing
		s.remove = ""
	}
	if s.size, err = io.Copy(spool, f); err != nil {
		return nil, errors.Join(fmt.Errorf("cannot keep the requests of %s: %w", name, err), s.Close())
	}
	return s, nil
}

// Close gives up what was opened.
func (s *Source) Close() error {
	if s.file == nil {
		return nil
	}
	err := s.file.Close()
	if s.remove != "" {
		err = errors.Join(err, os.Remove(s.remove))
	}
	return err
}

// reader is the bytes from the beginning, unpacked if gzip or zstd packed them. The result has
// to be closed.
func (s *Source) reader() (io.ReadCloser, error) {
	from := s.stdin
	if from == nil {
		from = io.NewSectionReader(s.file, 0, s.size)
	}
	buffered := bufio.NewReaderSize(from, 256<<10)
	magic, _ := buffered.Peek(4)
	switch {
	case bytes.HasPrefix(magic, []byte{0x1f, 0x8b}):
		z, err := gzip.NewReader(buffered)
		if err != nil {
			return nil, fmt.Errorf("%s: it begins like gzip but is not: %w", s.name, err)
		}
		return z, nil
	case bytes.Equal(magic, []byte{0x28, 0xb5, 0x2f, 0xfd}): // RFC 8878, section 3.1.1
		z, err := zstd.NewReader(buffered, zstd.WithDecoderConcurrency(1))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", s.name, err)
		}
		return z.IOReadCloser(), nil
	}
	return io.NopCloser(buffered), nil
}

// ReadAll gives the requests of a source, as Read does.
func (f *Format) ReadAll(s *Source, yield func(*Request) bool) error {
	r, err := s.reader()
	if err != nil {
		return err
	}
	defer r.Close()
	return f.Read(s.name, r, yield)
}
