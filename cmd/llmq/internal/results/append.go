package results

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"sync"
)

// appending is the records that were added and are not written yet.
type appending struct {
	added chan struct{} // has a value while there are some

	mu      sync.Mutex // guards these
	lines   []byte
	records []added

	writing sync.Mutex // held while records are written; guards spent
	spent   []byte     // the lines before, for reuse
}

// added is a record whose line ends there, in the lines.
type added struct {
	*Record
	end int
}

// maxAdded is how many bytes may wait to be written, about.
const maxAdded = 1 << 20

// Append writes a record, and what was added before it. ErrChanged is one of its errors.
func (f *File) Append(r *Record) error {
	if _, err := f.Add(r); err != nil {
		return err
	}
	_, err := f.Flush()
	return err
}

// Add takes in a record that the next Flush writes: until then it is not in the file, and not
// counted. full says that the Flush should not be waited for.
func (f *File) Add(r *Record) (full bool, err error) {
	f.adding.mu.Lock()
	defer f.adding.mu.Unlock()
	before := len(f.adding.lines)
	lines, err := appendRecord(f.adding.lines, r)
	if err != nil {
		f.adding.lines = f.adding.lines[:before]
		return false, fmt.Errorf("cannot write the results: %w", err)
	}
	f.adding.lines = lines
	f.adding.records = append(f.adding.records, added{r, len(lines)})
	select {
	case f.adding.added <- struct{}{}:
	default:
	}
	return len(lines) >= maxAdded, nil
}

// Added has a value when there are records to Flush.
func (f *File) Added() <-chan struct{} { return f.adding.added }

// Flush writes the records that were added, with one write, and returns those that are in the
// file now: beside an error, too. ErrChanged is one of its errors; what could not be written is
// dropped.
func (f *File) Flush() (written []*Record, err error) {
	f.adding.writing.Lock()
	defer f.adding.writing.Unlock()
	f.adding.mu.Lock()
	lines, records := f.adding.lines, f.adding.records
	if len(records) > 0 {
		f.adding.lines, f.adding.records, f.adding.spent = f.adding.spent[:0], nil, nil
	}
	f.adding.mu.Unlock()
	if len(records) == 0 {
		return nil, nil
	}
	at := f.size.Load()
	n, err := f.write(at, lines)
	from := 0
	for _, r := range records {
		if r.end > n {
			break
		}
		if noted := f.note(r.Record, at+int64(from)); noted != nil {
			return written, errors.Join(err, noted)
		}
		written = append(written, r.Record)
		from = r.end
	}
	if cap(lines) <= 2*maxAdded {
		f.adding.spent = lines
	}
	return written, err
}

// write writes lines at the end of the file, where it expects that to be. n is how many bytes of
// them, whole lines, are in the file.
func (f *File) write(at int64, lines []byte) (n int, err error) {
	now, err := os.Stat(f.path)
	if err := f.compare(at, now, err); err != nil {
		return 0, err
	}
	if now.Size() > at {
		return 0, fmt.Errorf("%s was written by something else while the run wrote it: %w", f.path, ErrChanged)
	}
	if n, err = f.f.Write(lines); err != nil {
		whole := bytes.LastIndexByte(lines[:n], '\n') + 1
		if whole < n {
			_ = f.f.Truncate(at + int64(whole)) // what a full disk left of a line
		}
		n, err = whole, fmt.Errorf("cannot write the results: %w", err)
	}
	f.size.Store(at + int64(n))
	return n, err
}
