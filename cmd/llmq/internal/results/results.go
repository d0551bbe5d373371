// Package results keeps a file of answers in the format of OpenAI's Batch results, one a
// line, so that it survives a crash at any moment: it is only ever appended to, or
// replaced as a whole.
package results

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gofrs/flock"

	"github.com/llmqueue/llmqueue"
	"github.com/llmqueue/llmqueue/cmd/llmq/internal/idset"
)

// Record is one line.
type Record struct {
	ID       string    `json:"id"`
	CustomID string    `json:"custom_id"`
	Response *Response `json:"response"`
	Error    *Error    `json:"error"`
	Run      Run       `json:"llmq"`

	own bool // it was read, and has what llmq adds
}

// Response is the provider's answer.
type Response struct {
	Status    int             `json:"status_code"`
	RequestID string          `json:"request_id"`
	Body      json.RawMessage `json:"body"`
}

// Error says why there is no answer, or none of use.
type Error struct {
	Code    string `json:"code"`
	Message string `json:"message"`
}

// Run is what llmq adds to the format.
type Run struct {
	Line      int64     `json:"line"` // of the input
	Model     string    `json:"model"`
	Instead   string    `json:"instead_of,omitempty"` // the model of the request, when a fallback answered
	StartedAt time.Time `json:"started_at,omitzero"`  // the last attempt
	LatencyMS float64   `json:"latency_ms"`           // of the last attempt
	Attempts  int       `json:"attempts"`
	Input     int64     `json:"input_tokens"` // of all attempts, as is known
	Output    int64     `json:"output_tokens"`
	Cached    int64     `json:"cached_input_tokens,omitempty"`
	Charged   int64     `json:"charged_tokens"`       // to the limits, by the last attempt
	FromCache bool      `json:"from_cache,omitempty"` // the answer was there: nothing was sent
	Hash      Hash      `json:"request_hash,omitzero"`
	Batch     string    `json:"batch,omitempty"` // the provider's, if the request was in one
	Tier      string    `json:"tier,omitempty"`  // "flex" if the provider answered at that tier

	Kept map[string]json.RawMessage `json:"kept,omitempty"` // fields of the line, by --keep
}

// Usage is what the record's attempts used.
func (r *Run) Usage() llmqueue.Usage {
	return llmqueue.Usage{InputTokens: r.Input, OutputTokens: r.Output, CachedInputTokens: r.Cached}
}

// BatchShare is what a request costs in a batch, of its price by a call: OpenAI's guide has
// a "50% cost discount compared to synchronous APIs"
// (developers.openai.com/api/docs/guides/batch), and Anthropic charges batches "50% of the
// standard API prices" (platform.claude.com/docs/en/build-with-claude/batch-processing).
const BatchShare = 0.5

// FlexShare is what a call costs at the tier flex: OpenAI prices it "at Batch API rates"
// (developers.openai.com/api/docs/guides/flex-processing), as Azure does, and Gemini's has
// "a 50% cost reduction compared to standard rates" (ai.google.dev/gemini-api/docs/flex-inference).
const FlexShare = 0.5

// Share is what the record's tokens cost, of their price by a call.
func (r *Run) Share() float64 {
	switch {
	case r.Batch != "":
		return BatchShare
	case r.Tier != "":
		return FlexShare
	}
	return 1
}

// Failed reports whether the record is of a request without an answer of use.
func (r *Record) Failed() bool {
	return r.Error != nil || r.Response == nil || r.Response.Status < 200 || r.Response.Status > 299
}

// State is what a file holds of an id.
type State int

// The states. Seen is for requests that were read but have no result.
const (
	Missing State = iota
	Seen
	Failed
	Done
)

// File is an output that is being written. See, Has, Answers, Append, Add, Flush, Check and Sync
// are safe for concurrent use.
type File struct {
	path  string
	lock  *flock.Flock // of the folder
	size  atomic.Int64 // of what is recorded
	stale bool         // it has records that later ones replace

	mu   sync.Mutex // guards these: they may be replaced while Sync and Check use them
	f    *os.File
	own  *flock.Flock // of the file itself; nil on Windows
	info os.FileInfo  // of f

	adding appending

	known sync.Mutex // guards ids, which the feeding asks while results are recorded
	ids   *idset.Set // their tags are the hashes of the requests

	// Repaired is how many bytes of a line half written were cut off.
	Repaired int64
	// Done and Failed count the ids by their latest record. Whoever reads them flushes no
	// records meanwhile.
	Done, Failed int64
}

// In the set of ids a number holds the offset of the latest record and the state.
const stateBits = 3

func pack(offset int64, s State, seen bool) uint64 {
	v := uint64(offset)<<stateBits | uint64(s)
	if seen {
		v |= 1 << (stateBits - 1)
	}
	return v
}

func unpack(v uint64) (offset int64, s State, seen bool) {
	return int64(v >> stateBits), State(v & 3), v&(1<<(stateBits-1)) != 0
}

// Open locks the output, repairs its end and reads what is recorded: each gets every
// record without its response's body. ErrBusy and ErrForeign are among its errors.
func Open(path string, each func(*Record)) (_ *File, err error) {
	if info, err := os.Stat(path); err == nil && !info.Mode().IsRegular() {
		return nil, fmt.Errorf("cannot write %s: it is no regular file", path)
	}
	path = resolve(path)
	dir := Dir(path)
	made := os.Mkdir(dir, 0o700)
	if made != nil && !errors.Is(made, os.ErrExist) {
		return nil, fmt.Errorf("cannot write beside %s: %w", path, made)
	}
	f := &File{path: path, lock: flock.New(filepath.Join(dir, "lock")), ids: idset.New(filepath.Join(dir, "ids"))}
	f.adding.added = make(chan struct{}, 1)
	if err := tryLock(f.lock, path); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			_ = f.Close()
			if made == nil { // a file that is not llmq's keeps no folder of it
				_ = errors.Join(os.Remove(f.lock.Path()), os.Remove(dir))
			}
		}
	}()
	if err := f.attach(os.O_CREATE); err != nil {
		return nil, fmt.Errorf("cannot write the results: %w", err)
	}
	if f.own, err = lockFile(path); err != nil {
		return nil, err
	}
	_ = os.Remove(f.temporary())
	if err := f.read(made == nil, each); err != nil {
		return nil, err
	}
	return f, nil
}

// temporary is the file that replaces the output: in the folder, as a name beside the output
// may be somebody's.
func (f *File) temporary() string { return filepath.Join(Dir(f.path), "new") }

// note takes in a record that stands at an offset.
func (f *File) note(r *Record, offset int64) error {
	f.known.Lock()
	defer f.known.Unlock()
	return f.ids.UpdateTag(r.CustomID, uint64(r.Run.Hash), func(v uint64) uint64 {
		_, state, seen := unpack(v)
		switch state {
		case Failed:
			f.stale = true
			f.Failed--
		case Done:
			f.stale = true
			f.Done--
		}
		if r.Failed() {
			f.Failed++
			return pack(offset, Failed, seen)
		}
		f.Done++
		return pack(offset, Done, seen)
	})
}

// See notes that the input has an id, and tells what there is of it: again when the
// input had it before.
func (f *File) See(id string) (s State, again bool, err error) {
	f.known.Lock()
	defer f.known.Unlock()
	err = f.ids.Update(id, func(v uint64) uint64 {
		var offset int64
		if offset, s, again = unpack(v); !again && s == Missing {
			return pack(offset, Seen, true)
		}
		return pack(offset, s, true)
	})
	if !again && s == Missing {
		s = Seen
	}
	return s, again, err
}

// Has tells what the file holds of an id.
func (f *File) Has(id string) (State, error) {
	f.known.Lock()
	defer f.known.Unlock()
	v, _, err := f.ids.Get(id)
	_, state, _ := unpack(v)
	return state, err
}

// Answers reports whether what the file holds of an id is of the request with that hash, as
// far as it tells: records of earlier versions have none.
func (f *File) Answers(id string, h Hash) (bool, error) {
	f.known.Lock()
	defer f.known.Unlock()
	tag, err := f.ids.Tag(id)
	return tag == 0 || Hash(tag) == h, err
}

// Sync has what was written survive a power cut, too.
func (f *File) Sync() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.f == nil {
		return nil
	}
	return f.f.Sync()
}

// Close ends the writing and frees the lock.
func (f *File) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	var err error
	if f.f != nil {
		err = errors.Join(f.f.Sync(), f.f.Close())
		f.f = nil
	}
	return errors.Join(err, f.ids.Close(), unlock(f.own), f.lock.Unlock())
}

// LineError says what is wrong with a line of a file of results.
type LineError struct {
	File string
	Line int64
	Err  error
}

func (e *LineError) Error() string {
	return fmt.Sprintf("%s:%d: no line of results: %v", e.File, e.Line, e.Err)
}
func (e *LineError) Unwrap() error { return e.Err }

// parse reads a line, the response's body left out.
func parse(line []byte) (*Record, error) {
	var r struct {
		Record
		Response *struct {
			Status    int             `json:"status_code"`
			RequestID string          `json:"request_id"`
			Body      json.RawMessage `json:"-"`
		} `json:"response"`
		Run *Run `json:"llmq"`
	}
	if err := json.Unmarshal(line, &r); err != nil {
		return nil, err
	}
	if r.CustomID == "" {
		return nil, errors.New(`it has no "custom_id"`)
	}
	if r.Run != nil {
		r.Record.Run, r.own = *r.Run, true
	}
	if r.Response != nil {
		r.Record.Response = &Response{Status: r.Response.Status, RequestID: r.Response.RequestID}
	}
	return &r.Record, nil
}

// Scan gives the lines of a file with their offsets and numbers, whole if they end.
func Scan(path string, each func(offset int64, line []byte, n int64, whole bool) error) (size int64, err error) {
	in, err := os.Open(path)
	if err != nil {
		return 0, fmt.Errorf("cannot read the results: %w", err)
	}
	defer in.Close()
	r := bufio.NewReaderSize(in, 256<<10)
	var long []byte
	for n := int64(1); ; n++ {
		line, err := r.ReadSlice('\n')
		for errors.Is(err, bufio.ErrBufferFull) {
			long = append(long, line...)
			line, err = r.ReadSlice('\n')
		}
		if len(long) > 0 {
			line = append(long, line...)
			long = line[:0]
		}
		if err != nil && err != io.EOF {
			return size, fmt.Errorf("cannot read the results: %w", err)
		}
		if len(line) == 0 {
			return size, nil
		}
		whole := err == nil
		offset := size
		size += int64(len(line))
		if whole {
			line = line[:len(line)-1]
		}
		if err := each(offset, line, n, whole); err != nil {
			return size, err
		}
		if !whole {
			return size, nil
		}
	}
}
