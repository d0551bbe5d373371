// Package idset keeps a number and a tag for each of many ids, in bounded memory: beyond
// some 180,000 they go to a file.
package idset

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
)

// Set maps ids to numbers and tags. Of an id it keeps 128 bits of its SHA-256: that two of ten
// million ids share them has a chance of 10⁻²⁵, so a hit is not looked at again. It is
// not safe for concurrent use.
type Set struct {
	path  string
	bound int // slots that are kept in memory at most

	slots   int // a power of two
	used    int
	table   table    // what keeps the slots: the file, if there is one, or memory
	file    *os.File // nil while they are in memory
	scratch [probe * entry]byte
}

// entry is the length of a slot: the hash, the value. A slot whose hash is zero is free.
const entry = 32

// inMemory is how many slots are kept in memory: 8 MB of them.
const inMemory = 1 << 18

// probe is how many slots are read at once.
const probe = 8

// New returns an empty set that puts its ids into a file at path when there are many.
// What is there is overwritten.
func New(path string) *Set {
	return &Set{path: path, bound: inMemory, slots: 1 << 10, table: make(memory, entry<<10)}
}

// Len is how many ids there are.
func (s *Set) Len() int { return s.used }

// Get returns the number of an id.
func (s *Set) Get(id string) (number uint64, found bool, err error) {
	h := hash(id)
	_, v, found, err := s.find(s.table, s.slots, h)
	return v.number, found, err
}

// Tag returns the tag of an id, 0 if it has none.
func (s *Set) Tag(id string) (uint64, error) {
	_, v, _, err := s.find(s.table, s.slots, hash(id))
	return v.tag, err
}

// Put sets the number of an id.
func (s *Set) Put(id string, value uint64) error {
	return s.Update(id, func(uint64) uint64 { return value })
}

// Update replaces the number of an id, 0 if it has none, by what f makes of it.
func (s *Set) Update(id string, f func(uint64) uint64) error {
	return s.update(id, func(v value) value { return value{f(v.number), v.tag} })
}

// UpdateTag is Update that sets the tag, too.
func (s *Set) UpdateTag(id string, tag uint64, f func(uint64) uint64) error {
	return s.update(id, func(v value) value { return value{f(v.number), tag} })
}

func (s *Set) update(id string, f func(value) value) error {
	h := hash(id)
	at, old, found, err := s.find(s.table, s.slots, h)
	if err != nil {
		return err
	}
	if !found {
		if s.used++; s.used > s.slots/10*7 {
			if err := s.grow(); err != nil {
				return err
			}
			if at, _, _, err = s.find(s.table, s.slots, h); err != nil {
				return err
			}
		}
	}
	return s.write(s.table, at, h, f(old))
}

// Close removes the file, if there is one.
func (s *Set) Close() error {
	s.table = nil
	if s.file == nil {
		return nil
	}
	return errors.Join(s.file.Close(), os.Remove(s.file.Name()))
}

type table interface {
	io.ReaderAt
	io.WriterAt
}

// value is what an id has.
type value struct{ number, tag uint64 }

func valueIn(b []byte) value {
	return value{binary.BigEndian.Uint64(b), binary.BigEndian.Uint64(b[8:])}
}

type key [16]byte

func hash(id string) (k key) {
	sum := sha256.Sum256([]byte(id))
	copy(k[:], sum[:])
	k[15] |= 1 // never all zero
	return k
}

// find returns where h stands in a table, or the free slot where it belongs.
func (s *Set) find(t table, slots int, h key) (at int64, v value, found bool, err error) {
	for i := int(binary.BigEndian.Uint64(h[:]) % uint64(slots)); ; {
		n := min(probe, slots-i)
		read := s.scratch[:n*entry]
		if _, err := t.ReadAt(read, int64(i)*entry); err != nil {
			return 0, value{}, false, fmt.Errorf("the ids' file %s: %w", s.path, err)
		}
		for j := range n {
			e := read[j*entry:]
			at = int64(i+j) * entry
			switch key(e[:16]) {
			case h:
				return at, valueIn(e[16:]), true, nil
			case key{}:
				return at, value{}, false, nil
			}
		}
		i = (i + n) % slots
	}
}

func (s *Set) write(t table, at int64, h key, v value) error {
	copy(s.scratch[:], h[:])
	binary.BigEndian.PutUint64(s.scratch[16:], v.number)
	binary.BigEndian.PutUint64(s.scratch[24:], v.tag)
	if _, err := t.WriteAt(s.scratch[:entry], at); err != nil {
		return fmt.Errorf("the ids' file %s: %w", s.path, err)
	}
	return nil
}

// grow doubles the slots, and makes four of each in a file, where moving takes longer.
func (s *Set) grow() error {
	old, oldFile, oldSlots := s.table, s.file, s.slots
	slots := 2 * oldSlots
	if slots > s.bound {
		slots *= 2
	}
	var to table
	var file *os.File
	if slots <= s.bound {
		to = make(memory, slots*entry)
	} else {
		var err error
		// The second name is for the next time: one file is read while the other is written.
		name := s.path
		if oldFile != nil && oldFile.Name() == name {
			name += "2"
		}
		if file, err = os.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600); err != nil {
			return fmt.Errorf("the ids' file: %w", err)
		}
		if err := file.Truncate(int64(slots) * entry); err != nil {
			return errors.Join(err, file.Close())
		}
		to = file
	}
	buf := make([]byte, min(1024, oldSlots)*entry)
	for at := int64(0); at < int64(oldSlots)*entry; at += int64(len(buf)) {
		if _, err := old.ReadAt(buf, at); err != nil {
			return fmt.Errorf("the ids' file %s: %w", s.path, err)
		}
		for i := 0; i < len(buf); i += entry {
			h := key(buf[i : i+16])
			if h == (key{}) {
				continue
			}
			v := valueIn(buf[i+16:])
			place, _, _, err := s.find(to, slots, h)
			if err == nil {
				err = s.write(to, place, h, v)
			}
			if err != nil {
				return err
			}
		}
	}
	s.slots, s.file, s.table = slots, file, to
	if oldFile != nil {
		return errors.Join(oldFile.Close(), os.Remove(oldFile.Name()))
	}
	return nil
}

// memory is a table in memory.
type memory []byte

func (m memory) ReadAt(p []byte, at int64) (int, error)  { return copy(p, m[at:]), nil }
func (m memory) WriteAt(p []byte, at int64) (int, error) { return copy(m[at:], p), nil }
