package results

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"

	"github.com/llmqueue/llmqueue/cmd/llmq/internal/idset"
)

// Read gives the records of a file that nobody needs to lock: the latest of each id, and
// a line half written left out.
func Read(path string, each func(*Record)) error {
	return latest(path, func(r *Record, _ []byte) error { each(r); return nil })
}

// ReadWhole does as Read, and the records have their responses' bodies. An error of each ends
// the reading.
func ReadWhole(path string, each func(*Record) error) error {
	return latest(path, func(r *Record, line []byte) error {
		if r.Response != nil {
			var whole struct {
				Response struct {
					Body json.RawMessage `json:"body"`
				} `json:"response"`
			}
			if err := json.Unmarshal(line, &whole); err != nil {
				return err
			}
			r.Response.Body = whole.Response.Body
		}
		return each(r)
	})
}

// latest gives the latest record of each id, and its line.
func latest(path string, each func(r *Record, line []byte) error) error {
	dir, err := os.MkdirTemp(filepath.Dir(path), ".llmq-*")
	if err != nil {
		if dir, err = os.MkdirTemp("", "llmq-*"); err != nil {
			return err
		}
	}
	defer os.RemoveAll(dir)
	ids := idset.New(filepath.Join(dir, "ids"))
	defer ids.Close()
	var torn *LineError
	take := func(final bool) error {
		torn = nil
		_, err := Scan(path, func(offset int64, line []byte, n int64, whole bool) error {
			if torn != nil {
				return torn
			}
			r, err := parse(line)
			if err != nil || !whole {
				if err == nil {
					err = errors.New("it has no end")
				}
				torn = &LineError{path, n, err}
				return nil
			}
			if !final {
				return ids.Put(r.CustomID, uint64(offset))
			}
			if at, _, err := ids.Get(r.CustomID); err != nil || at != uint64(offset) {
				return err
			}
			return each(r, line)
		})
		return err
	}
	if err := take(false); err != nil {
		return err
	}
	return take(true)
}
