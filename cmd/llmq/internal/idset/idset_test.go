package idset

import (
	"os"
	"path/filepath"
	"strconv"
	"testing"
)

// TestManyIDs puts more ids in than are kept in memory, over several doublings of the
// file, and asks for each of them and for as many others.
func TestManyIDs(t *testing.T) {
	dir := t.TempDir()
	s := New(filepath.Join(dir, "ids"))
	s.bound = 1 << 11
	const n = 20_000
	for i := range n {
		if err := s.UpdateTag("id-"+strconv.Itoa(i), uint64(i)<<40, func(uint64) uint64 { return uint64(i) }); err != nil {
			t.Fatal(err)
		}
	}
	for i := 0; i < n; i += 3 {
		if err := s.Put("id-"+strconv.Itoa(i), uint64(2*i)); err != nil {
			t.Fatal(err)
		}
	}
	if s.Len() != n || s.file == nil {
		t.Fatalf("%d ids, want %d, in a file: %v", s.Len(), n, s.file)
	}
	for i := range n {
		want := uint64(i)
		if i%3 == 0 {
			want *= 2
		}
		if got, ok, err := s.Get("id-" + strconv.Itoa(i)); !ok || got != want || err != nil {
			t.Fatalf("id %d has %d (%v, %v), want %d", i, got, ok, err, want)
		}
		if tag, err := s.Tag("id-" + strconv.Itoa(i)); tag != uint64(i)<<40 || err != nil {
			t.Fatalf("id %d has the tag %d (%v)", i, tag, err)
		}
		if _, ok, _ := s.Get("other-" + strconv.Itoa(i)); ok {
			t.Fatalf("an id that was never put in is found: other-%d", i)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if left, _ := os.ReadDir(dir); len(left) > 0 {
		t.Errorf("files are left behind: %v", left)
	}
}
