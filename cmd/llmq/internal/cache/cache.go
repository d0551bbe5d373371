// Package cache keeps answers in a folder, by the requests that they answer.
package cache

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// Cache is a folder of answers. Safe for concurrent use, by several processes, too.
type Cache struct{ dir string }

// Request is what an answer is found by.
type Request struct {
	Path  string // such as /v1/chat/completions
	Model string
	Body  []byte
}

// Answer is what a provider answered.
type Answer struct {
	Status    int             `json:"status_code"`
	RequestID string          `json:"request_id"`
	Body      json.RawMessage `json:"body"`
}

// entry is a file of the cache. What it is of is in it, for people, and because a file can have
// been put into the wrong place.
type entry struct {
	Path  string `json:"path"`
	Model string `json:"model"`
	Answer
}

// New is the cache in a folder, which need not be there.
func New(dir string) *Cache { return &Cache{dir} }

const temporary = "tmp-"

// stale is how old a file half written is that nobody writes any more.
const stale = 24 * time.Hour

// Prepare makes the folder, and takes out what killed runs left half written.
func (c *Cache) Prepare() error {
	if err := os.MkdirAll(c.dir, 0o700); err != nil {
		return err
	}
	left, err := filepath.Glob(filepath.Join(c.dir, temporary+"*"))
	for _, name := range left {
		if info, err := os.Stat(name); err == nil && time.Since(info.ModTime()) > stale {
			_ = os.Remove(name)
		}
	}
	return err
}

// place is where the answer to a request is: by the SHA-256 of its path, model and body.
func (c *Cache) place(r Request) string {
	h := sha256.New()
	for _, part := range [][]byte{[]byte(r.Path), []byte(r.Model)} {
		h.Write(part)
		h.Write([]byte{0})
	}
	h.Write(r.Body)
	name := hex.EncodeToString(h.Sum(nil))
	return filepath.Join(c.dir, name[:2], name[2:]+".json")
}

// Get gives the answer to a request. A file that a power cut or something else has damaged is
// no answer.
func (c *Cache) Get(r Request) (a Answer, ok bool) {
	data, err := os.ReadFile(c.place(r))
	if err != nil {
		return a, false
	}
	var e entry
	if json.Unmarshal(data, &e) != nil || e.Path != r.Path || e.Model != r.Model || e.Status < 200 || e.Status > 299 || len(e.Body) == 0 {
		return a, false
	}
	return e.Answer, true
}

// Put keeps the answer to a request: whole, or not at all.
func (c *Cache) Put(r Request, a Answer) error {
	data, err := json.Marshal(entry{r.Path, r.Model, a})
	if err != nil {
		return fmt.Errorf("cannot write the cache: %w", err)
	}
	if err := c.write(c.place(r), append(data, '\n')); err != nil {
		return fmt.Errorf("cannot write the cache: %w", err)
	}
	return nil
}

func (c *Cache) write(place string, data []byte) error {
	if err := os.MkdirAll(filepath.Dir(place), 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(c.dir, temporary+"*")
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), place)
	}
	if err != nil {
		_ = os.Remove(f.Name())
	}
	return err
}
