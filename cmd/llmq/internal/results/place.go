package results

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"

	"github.com/gofrs/flock"
)

// ErrBusy says that another run writes the file.
var ErrBusy = errors.New("another llmq writes this file")

// ErrChanged says that something else than the run removed, replaced or changed the output.
var ErrChanged = errors.New("put it back and run the same command again, or name another file with -o")

// Dir is the folder of what a run keeps beside its output: beside the file itself, when the
// output is a symbolic link.
func Dir(output string) string { return resolve(output) + ".llmq" }

// maxLinks bounds how many symbolic links lead to a file: Linux follows 40.
const maxLinks = 40

// resolve is what a name stands for that may be a symbolic link. The file need not exist.
func resolve(path string) string {
	for range maxLinks {
		to, err := os.Readlink(path)
		if err != nil {
			break
		}
		if !filepath.IsAbs(to) {
			to = filepath.Join(filepath.Dir(path), to)
		}
		path = to
	}
	return path
}

// lockFile locks the file itself, which may have other names: two runs of one file meet there
// though their folders differ. On Windows a lock would keep readers out, so there only the
// folder is locked, and hard links are not told from files.
func lockFile(path string) (*flock.Flock, error) {
	if runtime.GOOS == "windows" {
		return nil, nil
	}
	l := flock.New(path, flock.SetFlag(os.O_RDWR))
	return l, tryLock(l, path)
}

func tryLock(l *flock.Flock, path string) error {
	switch locked, err := l.TryLock(); {
	case err != nil:
		return fmt.Errorf("cannot lock %s: %w", path, err)
	case !locked:
		return fmt.Errorf("%s: %w: wait for it or end it", path, ErrBusy)
	}
	return nil
}

func unlock(l *flock.Flock) error {
	if l == nil {
		return nil
	}
	return l.Unlock()
}

// attach opens the file that f.path names and locks it. It wants f.mu, or to be alone.
func (f *File) attach(flags int) (err error) {
	if f.f, err = os.OpenFile(f.path, flags|os.O_RDWR|os.O_APPEND, 0o644); err != nil {
		return err
	}
	f.info, err = f.f.Stat()
	return err
}

// Check reports with ErrChanged that the output is not the file anymore that the run writes,
// or is shorter than what it wrote. It is safe for concurrent use.
func (f *File) Check() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	size := f.size.Load()
	now, err := os.Stat(f.path)
	return f.compare(size, now, err)
}

// compare says how the file that the path names now differs from the one that is written, of
// which so many bytes are known. It wants mu, or to be where the file is replaced.
func (f *File) compare(size int64, now os.FileInfo, err error) error {
	what := ""
	switch {
	case errors.Is(err, os.ErrNotExist):
		what = "removed"
	case err != nil:
		return fmt.Errorf("cannot write the results: %w", err)
	case !os.SameFile(f.info, now):
		what = "replaced by another file"
	case now.Size() < size:
		what = "cut short"
	default:
		return nil
	}
	return fmt.Errorf("%s was %s while the run wrote it: %w", f.path, what, ErrChanged)
}
