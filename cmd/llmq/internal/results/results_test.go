package results

import (
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

// TestAskingWhileResultsAreRecorded: the feeding asks what there is while answers come in.
// Without the lock on the ids some results were forgotten and ran again.
func TestAskingWhileResultsAreRecorded(t *testing.T) {
	path := filepath.Join(t.TempDir(), "out.jsonl")
	f, err := Open(path, nil)
	if err != nil {
		t.Fatal(err)
	}
	const n = 5000
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := range 4 * n {
			if _, err := f.Has(fmt.Sprint("r", i%n)); err != nil {
				t.Error(err)
			}
			if _, _, err := f.See(fmt.Sprint("s", i)); err != nil {
				t.Error(err)
			}
		}
	})
	for i := range n {
		if err := f.Append(&Record{CustomID: fmt.Sprint("r", i), Response: &Response{Status: 200, Body: []byte("{}")}, Run: Run{Line: int64(n - i)}}); err != nil {
			t.Fatal(err)
		}
	}
	wg.Wait()
	if f.Done != n {
		t.Errorf("%d are done, want %d", f.Done, n)
	}
	for i := range n {
		if s, err := f.Has(fmt.Sprint("r", i)); s != Done || err != nil {
			t.Fatalf("r%d is forgotten: state %d, %v", i, s, err)
		}
	}
	if err := f.Tidy(true); err != nil {
		t.Fatal(err)
	}
	next := int64(0)
	if err := Read(path, func(r *Record) {
		if next++; r.Run.Line != next {
			t.Fatalf("line %d stands at %d", r.Run.Line, next)
		}
	}); err != nil {
		t.Fatal(err)
	}
	if next != n {
		t.Errorf("%d results are left of %d", next, n)
	}
	if err := f.Close(); err != nil {
		t.Error(err)
	}
}

// TestWhatIsAddedIsWrittenOnce and whole, however many add and flush at a time.
func TestWhatIsAddedIsWrittenOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "out.jsonl")
	f, err := Open(path, nil)
	if err != nil {
		t.Fatal(err)
	}
	const writers, n = 4, 300
	var flushed atomic.Int64
	flush := func() {
		written, err := f.Flush()
		if err != nil {
			t.Error(err)
		}
		flushed.Add(int64(len(written)))
	}
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for i := range n {
				if _, err := f.Add(&Record{CustomID: fmt.Sprint(w, "-", i), Error: &Error{Code: "x", Message: strings.Repeat("y", i)}}); err != nil {
					t.Error(err)
				}
				if i%7 < w {
					flush()
				}
			}
		})
	}
	wg.Wait()
	if got := flushed.Load(); f.Done != 0 || f.Failed != got {
		t.Errorf("%d count as failed, %d are in the file", f.Failed, got)
	}
	flush()
	lines := 0
	if err := Inspect(path, func(*Record) { lines++ }); err != nil || lines != writers*n || flushed.Load() != writers*n {
		t.Errorf("%d lines of %d, %d flushed: %v", lines, writers*n, flushed.Load(), err)
	}
	_ = f.Close()
}

// TestTheLatestResultOfAnIDCounts, whatever the file went through.
func TestTheLatestResultOfAnIDCounts(t *testing.T) {
	path := filepath.Join(t.TempDir(), "out.jsonl")
	failed := func(id string) *Record { return &Record{CustomID: id, Error: &Error{Code: "x"}} }
	good := func(id string) *Record {
		return &Record{CustomID: id, Response: &Response{Status: 200, Body: []byte(`"y"`)}}
	}
	for i, records := range [][]*Record{{failed("a"), failed("b"), good("c")}, {good("a"), failed("b")}, {good("b")}} {
		f, err := Open(path, nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range records {
			if err := f.Append(r); err != nil {
				t.Fatal(err)
			}
		}
		if i == 1 { // as if killed before it was tidied up
			_ = f.Close()
			continue
		}
		if err := f.Tidy(false); err != nil {
			t.Fatal(err)
		}
		if want := []int64{1, 0, 3}[i]; f.Done != want || f.Done+f.Failed != 3 {
			t.Errorf("round %d: %d done and %d failed, want %d of 3", i, f.Done, f.Failed, want)
		}
		_ = f.Close()
	}
	var ids string
	if err := Read(path, func(r *Record) {
		ids += r.CustomID
		if r.Failed() {
			t.Errorf("%s failed in the end", r.CustomID)
		}
	}); err != nil || ids != "cab" {
		t.Errorf("the file has %q (%v), want each once, in order of the latest", ids, err)
	}
}
