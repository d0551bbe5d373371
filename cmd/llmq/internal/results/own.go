package results

import (
	"bytes"
	"errors"
	"fmt"
	"os"
)

// ErrForeign says that a file is not llmq's own, so that it is left as it is.
var ErrForeign = errors.New("the file stays as it is: name another with -o, or take the line out")

// beginning is what every line of llmq's begins with.
const beginning = `{"id":"batch_req_`

// extent is how far the records of a file go.
type extent struct {
	size, end    int64 // of the file, of the records with their line ends
	unterminated bool  // the last record has no line end
	torn         bool  // a crash left something behind the records
}

// Inspect gives the records of an output, in the order of the file, without changing or
// locking it. A file that is not llmq's own is ErrForeign, one that is missing os.ErrNotExist.
func Inspect(path string, each func(*Record)) error {
	_, err := os.Stat(Dir(path))
	_, err = inspect(path, err != nil, func(r *Record, _ int64) error { each(r); return nil })
	return err
}

// inspect gives the records of an output with their offsets. A file that has anything else
// than a crash leaves at its end is not llmq's own: ErrForeign. fresh says that no run has
// written the file, as far as is known.
func inspect(path string, fresh bool, each func(*Record, int64) error) (e extent, err error) {
	var rest *LineError // the first line that is no record
	e.size, err = Scan(path, func(offset int64, line []byte, n int64, whole bool) error {
		if rest != nil {
			if len(bytes.Trim(line, "\x00")) > 0 {
				return fmt.Errorf("%w: %w", rest, ErrForeign)
			}
			return nil
		}
		r, err := parse(line)
		if err == nil && !r.own {
			err = errors.New(`it has no "llmq"`)
		}
		if err != nil {
			rest = &LineError{path, n, err}
			if !torn(line, whole) || fresh && offset == 0 {
				return fmt.Errorf("%w: %w", rest, ErrForeign)
			}
			return nil
		}
		e.end = offset + int64(len(line)) + 1
		e.unterminated = !whole
		return each(r, offset)
	})
	e.torn = rest != nil
	return e, err
}

// read takes in the records of the output, and cuts off what a crash left of one at its end.
// A file that is not llmq's own is not changed: see inspect.
func (f *File) read(fresh bool, each func(*Record)) error {
	e, err := inspect(f.path, fresh, func(r *Record, offset int64) error {
		if each != nil {
			each(r)
		}
		return f.note(r, offset)
	})
	if err != nil {
		return err
	}
	switch {
	case e.unterminated:
		_, err = f.f.Write([]byte("\n"))
	case e.torn:
		f.Repaired = e.size - e.end
		err = f.f.Truncate(e.end)
	}
	if err != nil {
		return fmt.Errorf("cannot repair the end of %s: %w", f.path, err)
	}
	f.size.Store(e.end)
	return nil
}

// torn reports whether a crash can have left this of a record: its beginning, with no line
// end behind it, or the zeros that a power cut leaves where nothing reached the disk.
func torn(line []byte, whole bool) bool {
	written, zeros := line, []byte(nil)
	if i := bytes.IndexByte(line, 0); i >= 0 {
		written, zeros = line[:i], line[i:]
	}
	begins := bytes.HasPrefix(written, []byte(beginning)) || bytes.HasPrefix([]byte(beginning), written)
	return begins && len(bytes.Trim(zeros, "\x00")) == 0 && (!whole || len(zeros) > 0)
}
