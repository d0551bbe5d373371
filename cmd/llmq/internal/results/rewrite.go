package results

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"

	"github.com/llmqueue/llmqueue/cmd/llmq/internal/idset"
)

// Tidy takes out the records that later ones replaced and, if ordered, puts the rest in
// the order of the input. The file is replaced as a whole, or stays as it is.
// ErrChanged is one of its errors.
func (f *File) Tidy(ordered bool) error {
	if err := f.Check(); err != nil {
		return err
	}
	if !f.stale && (!ordered || f.inOrder()) {
		return nil
	}
	if err := f.rewrite(ordered); err != nil {
		return errors.Join(fmt.Errorf("cannot tidy %s up, it stays as it was: %w", f.path, err), ignoreMissing(os.Remove(f.temporary())))
	}
	return nil
}

// SetAside renames the file to one beside it, whose name it returns, and begins it anew: ""
// when it is empty.
func (f *File) SetAside() (name string, err error) {
	if f.size.Load() == 0 {
		return "", nil
	}
	for n := 1; ; n++ {
		name = fmt.Sprintf("%s.%d", f.path, n)
		if _, err := os.Lstat(name); errors.Is(err, os.ErrNotExist) {
			break
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := errors.Join(f.f.Close(), unlock(f.own)); err != nil {
		return "", err
	}
	if err := os.Rename(f.path, name); err != nil {
		return "", errors.Join(err, f.attach(0))
	}
	if err := f.attach(os.O_CREATE); err != nil {
		return "", err
	}
	if f.own, err = lockFile(f.path); err != nil {
		return "", err
	}
	if err := f.ids.Close(); err != nil {
		return "", err
	}
	f.ids = idset.New(filepath.Join(Dir(f.path), "ids"))
	f.size.Store(0)
	f.stale, f.Done, f.Failed = false, 0, 0
	return name, nil
}

func ignoreMissing(err error) error {
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

// inOrder reports whether the lines have the order of the input.
func (f *File) inOrder() bool {
	last, sorted := int64(0), true
	_, err := Scan(f.path, func(_ int64, line []byte, _ int64, _ bool) error {
		r, err := parse(line)
		if err != nil {
			return err
		}
		sorted = sorted && r.Run.Line >= last
		last = r.Run.Line
		return nil
	})
	return err == nil && sorted
}

func (f *File) rewrite(ordered bool) error {
	mode := f.info.Mode().Perm()
	out, err := os.OpenFile(f.temporary(), os.O_WRONLY|os.O_CREATE|os.O_TRUNC, mode)
	if err != nil {
		return err
	}
	if err := out.Chmod(mode); err != nil && runtime.GOOS != "windows" { // what the umask took
		return errors.Join(err, out.Close())
	}
	w := bufio.NewWriterSize(out, 256<<10)
	if ordered {
		err = f.copyOrdered(w)
	} else {
		err = f.copyLatest(func(_ *Record, _ int64, line []byte) error {
			if _, err := w.Write(line); err != nil {
				return err
			}
			return w.WriteByte('\n')
		})
	}
	// The new file must be on the disk before its name is: else a power cut could leave
	// the name with nothing behind it.
	if err := errors.Join(err, w.Flush(), out.Sync(), out.Close()); err != nil {
		return err
	}
	next, err := lockFile(f.temporary())
	if err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.f.Close(); err != nil { // before, because some systems rename no open file
		return errors.Join(err, unlock(next))
	}
	renamed := os.Rename(f.temporary(), f.path)
	if renamed != nil {
		err = unlock(next)
	} else {
		err = unlock(f.own)
		f.own, f.stale = next, false
	}
	if err := errors.Join(renamed, err, f.attach(0)); err != nil {
		return err
	}
	f.size.Store(f.info.Size())
	return nil
}

// copyLatest gives the records that none replaced, in the order of the file.
func (f *File) copyLatest(each func(r *Record, offset int64, line []byte) error) error {
	_, err := Scan(f.path, func(offset int64, line []byte, _ int64, _ bool) error {
		r, err := parse(line)
		if err != nil {
			return err
		}
		v, _, err := f.ids.Get(r.CustomID)
		if err != nil {
			return err
		}
		if at, _, _ := unpack(v); at != offset {
			return nil
		}
		return each(r, offset, line)
	})
	return err
}

// copyOrdered copies the records by way of a file that has, for each line of the input,
// where its record begins and how long it is. Records of no known line come first.
func (f *File) copyOrdered(w *bufio.Writer) error {
	const entry = 16
	index, err := os.OpenFile(filepath.Join(Dir(f.path), "order"), os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer func() { _ = errors.Join(index.Close(), os.Remove(index.Name())) }()
	last := int64(0)
	var e, free [entry]byte
	err = f.copyLatest(func(r *Record, offset int64, line []byte) error {
		if n := r.Run.Line; n > 0 {
			_, err := index.ReadAt(e[:], n*entry)
			if err != nil && err != io.EOF {
				return err
			}
			if err == io.EOF || e == free {
				last = max(last, n)
				binary.BigEndian.PutUint64(e[:], uint64(offset))
				binary.BigEndian.PutUint64(e[8:], uint64(len(line))+1)
				_, err = index.WriteAt(e[:], n*entry)
				return err
			}
			// Another input's line of the same number.
		}
		if _, err := w.Write(line); err != nil {
			return err
		}
		return w.WriteByte('\n')
	})
	if err != nil {
		return err
	}
	in, err := os.Open(f.path)
	if err != nil {
		return err
	}
	defer in.Close()
	entries := bufio.NewReaderSize(io.NewSectionReader(index, 0, (last+1)*entry), 256<<10)
	for n := int64(0); n <= last; n++ {
		if _, err := io.ReadFull(entries, e[:]); err != nil {
			return err
		}
		if e == free {
			continue
		}
		offset, length := binary.BigEndian.Uint64(e[:]), binary.BigEndian.Uint64(e[8:])
		if _, err := io.Copy(w, io.NewSectionReader(in, int64(offset), int64(length))); err != nil {
			return err
		}
	}
	return nil
}
