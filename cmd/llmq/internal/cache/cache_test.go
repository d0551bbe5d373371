package cache

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

var (
	asked    = Request{"/v1/chat/completions", "m", []byte(`{"model":"m"}`)}
	answered = Answer{200, "req_1", json.RawMessage(`{"choices":[]}`)}
)

func open(t *testing.T) *Cache {
	t.Helper()
	c := New(filepath.Join(t.TempDir(), "a", "cache"))
	if err := c.Prepare(); err != nil {
		t.Fatal(err)
	}
	return c
}

func put(t *testing.T, c *Cache, r Request, a Answer) {
	t.Helper()
	if err := c.Put(r, a); err != nil {
		t.Fatal(err)
	}
}

func TestAnAnswerIsFoundByAllOfItsRequest(t *testing.T) {
	t.Parallel()
	c := open(t)
	put(t, c, asked, answered)
	if a, ok := c.Get(asked); !ok || a.Status != 200 || a.RequestID != "req_1" || string(a.Body) != `{"choices":[]}` {
		t.Errorf("got %+v, %v", a, ok)
	}
	for _, r := range []Request{
		{"/v1/responses", "m", asked.Body}, {asked.Path, "n", asked.Body}, {asked.Path, "m", []byte(`{"model": "m"}`)},
	} {
		if a, ok := c.Get(r); ok {
			t.Errorf("%s %s %s has the answer %+v", r.Path, r.Model, r.Body, a)
		}
	}
}

func TestADamagedFileIsNoAnswerAndIsReplaced(t *testing.T) {
	t.Parallel()
	c := open(t)
	other := Request{"/v1/responses", "m", asked.Body}
	put(t, c, other, answered)
	whole, err := os.ReadFile(c.place(other))
	if err != nil {
		t.Fatal(err)
	}
	put(t, c, asked, answered)
	for name, data := range map[string]string{
		"empty": "", "half": string(whole[:len(whole)/2]), "zeros": strings.Repeat("\x00", 80), "of another": string(whole), "a failure": `{"path":"/v1/chat/completions","model":"m","status_code":500,"body":{}}`,
	} {
		if err := os.WriteFile(c.place(asked), []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
		if a, ok := c.Get(asked); ok {
			t.Errorf("%s: got %+v", name, a)
		}
		put(t, c, asked, answered)
		if _, ok := c.Get(asked); !ok {
			t.Errorf("%s: not replaced", name)
		}
	}
}

// TestManyWriteOneAnswer, and whoever reads meanwhile gets it whole.
func TestManyWriteOneAnswer(t *testing.T) {
	t.Parallel()
	c := open(t)
	large := Answer{200, "req_1", json.RawMessage(`"` + strings.Repeat("x", 1<<20) + `"`)}
	put(t, c, asked, large)
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for range 20 {
				if err := c.Put(asked, large); err != nil {
					t.Error(err)
				}
				if a, ok := c.Get(asked); !ok || len(a.Body) != len(large.Body) {
					t.Errorf("got %d bytes, %v", len(a.Body), ok)
				}
			}
		})
	}
	all.Wait()
}

func TestWhatAKilledRunLeftIsTakenOut(t *testing.T) {
	t.Parallel()
	c := open(t)
	old, fresh := filepath.Join(c.dir, temporary+"1"), filepath.Join(c.dir, temporary+"2")
	for _, name := range []string{old, fresh} {
		if err := os.WriteFile(name, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	then := time.Now().Add(-2 * stale)
	if err := os.Chtimes(old, then, then); err != nil {
		t.Fatal(err)
	}
	if err := c.Prepare(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(old); !os.IsNotExist(err) {
		t.Errorf("the old one is there: %v", err)
	}
	if _, err := os.Stat(fresh); err != nil {
		t.Errorf("one that may be under way is gone: %v", err)
	}
}
