// Package journal keeps what a run started and when, so that the next one knows what the
// limits' last periods have used already.
//
// It is a file of lines:
//
//	R 1761999999000000000                               a run begins, at that nanosecond
//	S 1761999999123456789 17 120 256 "gpt-4.1-mini"     attempt 17 starts: input and output reserved
//	E 17 118 93 0                                       it used that much input, output, cached input
//	L 1761999999000000000 "gpt-4.1-mini" [{"type":…}]   limits in force from then on
//
// Each start is written before it is sent, so that a process that is killed has it in the file.
// Ends are written with the next start, or by Flush: an attempt whose end a kill cost counts as
// one that was in flight. What is written reaches the disk within a second or so (Sync): a
// power cut may cost the starts of that second.
package journal

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/llmqueue/llmqueue"
)

// Keep is how long starts are kept: limits per day are the longest that matter.
const Keep = 25 * time.Hour

// rotateAt is the size at which a new file begins, once all of the old one is needed no
// more.
const rotateAt = 16 << 20

// Journal is the file of a run. Safe for concurrent use.
type Journal struct {
	path string

	mu     sync.Mutex
	f      *os.File
	n      int64
	size   int64
	began  time.Time // the first start in the file
	limits map[string][]byte
	buf    []byte // ends that are not written yet
}

// Open continues the journal in a folder.
func Open(dir string) (*Journal, error) {
	j := &Journal{path: filepath.Join(dir, "journal"), limits: map[string][]byte{}, began: time.Now()}
	if info, err := os.Stat(j.path); err == nil {
		j.size = info.Size()
		if at, ok := firstTime(j.path); ok {
			j.began = at
		}
	}
	if err := j.open(); err != nil {
		return nil, err
	}
	return j, j.write(fmt.Appendf(nil, "\nR %d\n", time.Now().UnixNano())) // the first line end is for a line half written
}

func (j *Journal) open() (err error) {
	if j.f, err = os.OpenFile(j.path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600); err != nil {
		return fmt.Errorf("cannot write the journal: %w", err)
	}
	return nil
}

func firstTime(path string) (time.Time, bool) {
	f, err := os.Open(path)
	if err != nil {
		return time.Time{}, false
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		fields := strings.Fields(lines.Text())
		if len(fields) >= 2 && fields[0] == "R" {
			ns, err := strconv.ParseInt(fields[1], 10, 64)
			return time.Unix(0, ns), err == nil
		}
	}
	return time.Time{}, false
}

// write writes a line behind what is in buf. It wants mu, or to be alone.
func (j *Journal) write(line []byte) error {
	j.buf = append(j.buf, line...)
	return j.flush()
}

// flush writes buf. It wants mu, or to be alone.
func (j *Journal) flush() error {
	if len(j.buf) == 0 {
		return nil
	}
	n, err := j.f.Write(j.buf)
	j.size += int64(n)
	j.buf = j.buf[:0]
	if err != nil {
		return fmt.Errorf("cannot write the journal: %w", err)
	}
	return nil
}

// Start notes that an attempt with this reservation is about to be sent. number is for End.
func (j *Journal) Start(model string, reserved llmqueue.Usage) (number int64, err error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	now := time.Now()
	if j.size > rotateAt && now.Sub(j.began) > Keep {
		if err := j.rotate(now); err != nil {
			return 0, err
		}
	}
	j.n++
	b := append(j.buf, "S "...)
	b = strconv.AppendInt(b, now.UnixNano(), 10)
	b = append(b, ' ')
	b = strconv.AppendInt(b, j.n, 10)
	b = append(b, ' ')
	b = strconv.AppendInt(b, reserved.InputTokens, 10)
	b = append(b, ' ')
	b = strconv.AppendInt(b, reserved.OutputTokens, 10)
	b = append(b, ' ')
	b = strconv.AppendQuote(b, model)
	j.buf = append(b, '\n')
	return j.n, j.flush()
}

// End notes what a started attempt used. It is written with what comes next, or by Flush.
func (j *Journal) End(number int64, used llmqueue.Usage) {
	j.mu.Lock()
	defer j.mu.Unlock()
	b := append(j.buf, 'E')
	for _, n := range [...]int64{number, used.InputTokens, used.OutputTokens, used.CachedInputTokens} {
		b = append(b, ' ')
		b = strconv.AppendInt(b, n, 10)
	}
	j.buf = append(b, '\n')
}

// Flush writes the ends that are not written yet.
func (j *Journal) Flush() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.flush()
}

// Limits notes the limits of a model in force from now on.
func (j *Journal) Limits(model string, limits []llmqueue.Limit) error {
	data, err := json.Marshal(limits)
	if err != nil {
		return err
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if bytes.Equal(j.limits[model], data) {
		return nil
	}
	j.limits[model] = data
	return j.writeLimits(time.Now(), model)
}

func (j *Journal) writeLimits(now time.Time, model string) error {
	return j.write(fmt.Appendf(nil, "L %d %s %s\n", now.UnixNano(), strconv.Quote(model), j.limits[model]))
}

// rotate begins a new file; the one before stays, so that the last Keep is in the two.
func (j *Journal) rotate(now time.Time) error {
	if err := errors.Join(j.flush(), j.f.Close(), os.Rename(j.path, j.path+".old")); err != nil {
		return fmt.Errorf("cannot write the journal: %w", err)
	}
	if err := j.open(); err != nil {
		return err
	}
	j.size, j.began = 0, now
	for _, model := range slices.Sorted(maps.Keys(j.limits)) {
		if err := j.writeLimits(now, model); err != nil {
			return err
		}
	}
	return nil
}

// Sync has what was written survive a power cut.
func (j *Journal) Sync() error {
	j.mu.Lock()
	f, err := j.f, j.flush()
	j.mu.Unlock()
	if err != nil {
		return err
	}
	if err := f.Sync(); err != nil && !errors.Is(err, os.ErrClosed) { // closed: rotated meanwhile
		return err
	}
	return nil
}

// Close ends the writing.
func (j *Journal) Close() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	return errors.Join(j.flush(), j.f.Sync(), j.f.Close())
}

// At stands between a model and the name of an endpoint, in what the journal calls the model
// there. The first endpoint has no name.
const At = " @ "

// Past is what a journal says of the time before now.
type Past struct {
	models map[string]*past
}

type past struct {
	starts map[int64]*starts // by the instant, in ns, that they count as
	limits []LimitChange
}

// starts are put together: so many, with so many tokens.
type starts struct {
	n    int64
	used llmqueue.Usage
}

// LimitChange is when limits came into force.
type LimitChange struct {
	At     time.Time
	Limits []llmqueue.Limit
}

// countsAs is the instant that a start counts as, in ns: its own, rounded up to what
// matters at its age, so that a day of many starts takes the memory of some 90,000.
func countsAs(at, now time.Time) int64 {
	step := time.Second
	switch age := now.Sub(at); {
	case age < 10*time.Second:
		step = 10 * time.Millisecond
	case age < 5*time.Minute:
		step = 100 * time.Millisecond
	}
	ns := at.UnixNano() + int64(step) - 1
	return ns - ns%int64(step)
}

// Read reads the journal in a folder; there may be none. keep says how old starts may be.
// charged tells what an attempt takes of the limits that reserved and used so much.
func Read(dir string, now time.Time, keep time.Duration, charged func(model string, reserved, used llmqueue.Usage, ended bool) llmqueue.Usage) (*Past, error) {
	p := &Past{models: map[string]*past{}}
	open := map[int64]*opened{}
	finish := func(o *opened) {
		u := charged(o.model, o.reserved, o.used, o.ended)
		m, at := p.of(o.model), countsAs(o.at, now)
		s := m.starts[at]
		if s == nil {
			s = &starts{}
			m.starts[at] = s
		}
		s.n++
		s.used.InputTokens += u.InputTokens
		s.used.OutputTokens += u.OutputTokens
		s.used.CachedInputTokens += u.CachedInputTokens
	}
	// What was in flight when a run was killed may have reached the provider as late as
	// that: its start was written before it was sent.
	cutOff := func(at time.Time) {
		for n, o := range open {
			if at.After(o.at) {
				o.at = at
			}
			finish(o)
			delete(open, n)
		}
	}
	var written time.Time
	for _, name := range []string{"journal.old", "journal"} {
		f, err := os.Open(filepath.Join(dir, name))
		if err == nil {
			if info, err := f.Stat(); err == nil {
				written = info.ModTime()
			}
		}
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("cannot read the journal: %w", err)
		}
		lines := bufio.NewScanner(f)
		lines.Buffer(nil, 1<<20)
		for lines.Scan() {
			kind, rest, _ := strings.Cut(lines.Text(), " ")
			switch kind {
			case "R":
				if ns, err := strconv.ParseInt(rest, 10, 64); err == nil {
					cutOff(time.Unix(0, ns))
				}
			case "S":
				if o, n, ok := parseStart(rest); ok && now.Sub(o.at) < keep {
					open[n] = o
				}
			case "E":
				if n, u, ok := parseEnd(rest); ok && open[n] != nil {
					open[n].used, open[n].ended = u, true
					finish(open[n])
					delete(open, n)
				}
			case "L":
				p.parseLimits(rest)
			}
		}
		if err := errors.Join(lines.Err(), f.Close()); err != nil {
			return nil, fmt.Errorf("cannot read the journal: %w", err)
		}
	}
	cutOff(written)
	return p, nil
}

// opened is a start whose end was not read yet.
type opened struct {
	model          string
	at             time.Time
	reserved, used llmqueue.Usage
	ended          bool
}

func (p *Past) of(model string) *past {
	m := p.models[model]
	if m == nil {
		m = &past{starts: map[int64]*starts{}}
		p.models[model] = m
	}
	return m
}

func parseStart(rest string) (o *opened, n int64, ok bool) {
	numbers, quoted, ok := strings.Cut(rest, ` "`)
	if !ok {
		return nil, 0, false
	}
	model, err := strconv.Unquote(`"` + quoted)
	f, ok := integers(numbers, 4)
	if err != nil || !ok {
		return nil, 0, false
	}
	return &opened{model: model, at: time.Unix(0, f[0]), reserved: llmqueue.Usage{InputTokens: f[2], OutputTokens: f[3]}}, f[1], true
}

func parseEnd(rest string) (n int64, u llmqueue.Usage, ok bool) {
	f, ok := integers(rest, 4)
	if !ok {
		return 0, u, false
	}
	return f[0], llmqueue.Usage{InputTokens: f[1], OutputTokens: f[2], CachedInputTokens: f[3]}, true
}

func (p *Past) parseLimits(rest string) {
	at, rest, _ := strings.Cut(rest, " ")
	quoted, err := strconv.QuotedPrefix(rest)
	if err != nil {
		return
	}
	model, _ := strconv.Unquote(quoted)
	ns, err := strconv.ParseInt(at, 10, 64)
	c := LimitChange{At: time.Unix(0, ns)}
	if err != nil || json.Unmarshal([]byte(rest[len(quoted):]), &c.Limits) != nil {
		return
	}
	m := p.of(model)
	m.limits = append(m.limits, c)
}

func integers(s string, want int) ([]int64, bool) {
	fields := strings.Fields(s)
	if len(fields) != want {
		return nil, false
	}
	list := make([]int64, want)
	for i, f := range fields {
		var err error
		if list[i], err = strconv.ParseInt(f, 10, 64); err != nil {
			return nil, false
		}
	}
	return list, true
}

// Starts gives when a model's attempts started and what each takes, for WithPriorUsage.
// Those of an instant are one after the other, the first with the tokens of all.
func (p *Past) Starts(model string) iter.Seq2[time.Time, llmqueue.Usage] {
	return func(yield func(time.Time, llmqueue.Usage) bool) {
		m := p.models[model]
		if m == nil {
			return
		}
		for at, s := range m.starts {
			u := s.used
			for range s.n {
				if !yield(time.Unix(0, at), u) {
					return
				}
				u = llmqueue.Usage{}
			}
		}
	}
}

// Limits gives the limits of a model as they came into force.
func (p *Past) Limits(model string) []LimitChange {
	if p == nil {
		return nil
	}
	if m := p.models[model]; m != nil {
		return m.limits
	}
	return nil
}

// Models lists the models that the journal knows.
func (p *Past) Models() []string {
	if p == nil {
		return nil
	}
	return slices.Sorted(maps.Keys(p.models))
}
