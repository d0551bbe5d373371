package results

import (
	"bytes"
	"errors"
	"fmt"
)

// ErrForeign says that a file is not llmq's own, so that it is left as it is.
var ErrForeign = errors.New("the file stays as it is: name another with -o, or take the line out")

// beginning is what every line of llmq's begins with.
const beginning = `{"id":"batch_req_`

// read takes in the records of the output, and cuts off what a crash left of one at its
// end. A file that has anything else is not llmq's own: it is not changed, and the error
// is ErrForeign. fresh says that no run has written the file, as far as is known.
func (f *File) read(fresh bool, each func(*Record)) error {
	end := int64(0)       // of the records
	var rest *LineError   // the first line that is no record
	unterminated := false // the last record has no line end
	size, err := Scan(f.path, func(offset int64, line []byte, n int64, whole bool) error {
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
			rest = &LineError{f.path, n, err}
			if !torn(line, whole) || fresh && offset == 0 {
				return fmt.Errorf("%w: %w", rest, ErrForeign)
			}
			return nil
		}
		end = offset + int64(len(line)) + 1
		unterminated = !whole
		if each != nil {
			each(r)
		}
		return f.note(r, offset)
	})
	if err != nil {
		return err
	}
	switch {
	case unterminated:
		_, err = f.f.Write([]byte("\n"))
	case rest != nil:
		f.Repaired = size - end
		err = f.f.Truncate(end)
	}
	if err != nil {
		return fmt.Errorf("cannot repair the end of %s: %w", f.path, err)
	}
	f.size.Store(end)
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
