// Package spool keeps the batches that a run hands to the provider, so that a kill at any
// moment loses none and submits none twice.
//
// A batch is three files in a folder, by its mark: MARK.jsonl is what is uploaded, MARK.ids
// says which requests that are, and MARK.json how far it has come. MARK.json is written last,
// replaced as a whole and removed first; each state is on the disk before the step that it
// announces. Files without it were never used, and are removed.
package spool

import (
	"bufio"
	"bytes"
	"cmp"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/llmqueue/llmqueue/cmd/llmq/internal/requests"
	"github.com/llmqueue/llmqueue/cmd/llmq/internal/results"
)

// Batch is one batch of requests of one model and path.
type Batch struct {
	Mark     string    `json:"mark"` // by which the provider's batch is found
	Host     string    `json:"host"`
	Model    string    `json:"model"`
	Path     string    `json:"path"`
	Requests int       `json:"requests"`
	Reserved float64   `json:"reserved_usd"`
	File     string    `json:"file,omitempty"`    // once it is uploaded
	Sent     time.Time `json:"sent,omitzero"`     // before it is submitted: from then on it may be there
	ID       string    `json:"batch,omitempty"`   // the provider's, once that is known
	Canceled time.Time `json:"canceled,omitzero"` // once that was asked

	dir        string
	size       int64
	inputs     int
	body, ids  *os.File
	bodyW, idW *bufio.Writer
}

// Member is one request of a batch.
type Member struct {
	Line int64        `json:"line"`
	ID   string       `json:"id"`
	Hash results.Hash `json:"hash"`

	Path   string                     `json:"path,omitempty"` // as the request has it, if the batch has another
	Input  int64                      `json:"input,omitempty"`
	Output int64                      `json:"output,omitempty"` // with Input what a call would reserve
	Kept   map[string]json.RawMessage `json:"kept,omitempty"`
}

// PathOf is the path of a member's request.
func (b *Batch) PathOf(m *Member) string { return cmp.Or(m.Path, b.Path) }

// New begins a batch in a folder, which is made if it is not there.
func New(dir, host, model, path string) (b *Batch, err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	mark := make([]byte, 8)
	_, _ = rand.Read(mark) // it never fails
	b = &Batch{Mark: "llmq-" + hex.EncodeToString(mark), Host: host, Model: model, Path: path, dir: dir}
	if b.body, err = os.OpenFile(b.Body(), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600); err != nil {
		return nil, err
	}
	if b.ids, err = os.OpenFile(b.file(".ids"), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600); err != nil {
		return nil, errors.Join(err, b.body.Close())
	}
	b.bodyW, b.idW = bufio.NewWriterSize(b.body, 256<<10), bufio.NewWriterSize(b.ids, 64<<10)
	return b, nil
}

func (b *Batch) file(ending string) string { return filepath.Join(b.dir, b.Mark+ending) }

// Body is the name of the file that is uploaded.
func (b *Batch) Body() string { return b.file(".jsonl") }

// line is a request as the provider wants it.
func (b *Batch) line(req *requests.Request) []byte {
	if strings.HasSuffix(b.Path, ":generateContent") { // the model is that of the batch
		line := fmt.Appendf(nil, `{"key":"%s-%d","request":`, b.Mark, b.Requests)
		return append(append(line, req.Body...), "}\n"...)
	}
	if b.Path == "/v1/messages" { // a list in JSON, of which the provider wants no more
		line := fmt.Appendf(nil, `{"custom_id":"%s-%d","params":`, b.Mark, b.Requests)
		if b.Requests > 0 {
			line = append([]byte{','}, line...)
		}
		return append(append(line, req.Body...), "}\n"...)
	}
	line := fmt.Appendf(nil, `{"custom_id":"%s-%d","method":"POST","url":%s,"body":`, b.Mark, b.Requests, strconv.Quote(b.Path))
	return append(append(line, req.Body...), "}\n"...)
}

// Fits reports whether the batch has room for a request within bounds. The first always fits.
func (b *Batch) Fits(req *requests.Request, maxRequests int, maxBytes int64) bool {
	return b.Requests == 0 ||
		b.Requests < maxRequests && b.size+int64(len(b.line(req))) <= maxBytes && b.inputs+b.inputsOf(req) <= maxInputs
}

// maxInputs: the reference of OpenAI's POST /v1/batches says that "/v1/embeddings batches are
// also restricted to a maximum of 50,000 embedding inputs across all requests in the batch".
const maxInputs = 50_000

// inputsOf is how many inputs a request for embeddings has, 0 of any other. A list of numbers
// is one input, in tokens.
func (b *Batch) inputsOf(req *requests.Request) int {
	if b.Path != "/v1/embeddings" {
		return 0
	}
	var body struct {
		Input json.RawMessage `json:"input"`
	}
	var list []json.RawMessage
	if json.Unmarshal(req.Body, &body) != nil || json.Unmarshal(body.Input, &list) != nil || len(list) == 0 || list[0][0] != '"' && list[0][0] != '[' {
		return 1
	}
	return len(list)
}

// Add takes in a request.
func (b *Batch) Add(req *requests.Request, usd float64) error {
	m := Member{
		Line: req.Line, ID: req.ID, Hash: results.HashOf(req.Path, req.Body),
		Input: req.Estimate.InputTokens, Output: req.Estimate.OutputTokens, Kept: req.Kept,
	}
	if req.Path != b.Path {
		m.Path = req.Path
	}
	member, err := json.Marshal(m)
	if err != nil {
		return err
	}
	n, err := b.bodyW.Write(b.line(req))
	b.size += int64(n)
	b.inputs += b.inputsOf(req)
	b.Requests++
	b.Reserved += usd
	_, err2 := b.idW.Write(append(member, '\n'))
	return errors.Join(err, err2)
}

// Seal ends the taking in: from then on the batch is found by Open.
func (b *Batch) Seal() error {
	err := errors.Join(b.bodyW.Flush(), b.idW.Flush(), b.body.Sync(), b.ids.Sync(), b.body.Close(), b.ids.Close())
	b.body, b.ids, b.bodyW, b.idW = nil, nil, nil, nil
	if err != nil {
		return err
	}
	return b.Save()
}

// Abandon removes a batch that was not sealed.
func (b *Batch) Abandon() error {
	return errors.Join(b.body.Close(), b.ids.Close(), b.Remove())
}

// Save has the batch's state on the disk.
func (b *Batch) Save() error {
	data, err := json.Marshal(b)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(b.file(".new"), os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(b.file(".new"), b.file(".json")); err != nil {
		return err
	}
	syncDir(b.dir)
	return nil
}

// syncDir has the names of a folder on the disk, where that can be asked for.
func syncDir(dir string) {
	if d, err := os.Open(dir); err == nil {
		_ = d.Sync()
		_ = d.Close()
	}
}

// Remove forgets the batch, once its results are kept elsewhere.
func (b *Batch) Remove() error {
	for _, ending := range []string{".json", ".new", ".ids", ".jsonl"} {
		if err := os.Remove(b.file(ending)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return nil
}

// Members are the requests of the batch, in its order.
func (b *Batch) Members() ([]Member, error) {
	data, err := os.ReadFile(b.file(".ids"))
	if err != nil {
		return nil, err
	}
	list := make([]Member, 0, b.Requests)
	for line := range bytes.Lines(data) {
		var m Member
		if err := json.Unmarshal(line, &m); err != nil {
			return nil, fmt.Errorf("%s: line %d: %w", b.file(".ids"), len(list)+1, err)
		}
		list = append(list, m)
	}
	return list, nil
}

// Bodies gives the bodies of the batch's requests, in its order, until each returns false.
func (b *Batch) Bodies(each func(i int, body []byte) bool) error {
	f, err := os.Open(b.Body())
	if err != nil {
		return err
	}
	defer f.Close()
	in := bufio.NewReaderSize(f, 256<<10)
	for i := range b.Requests {
		line, err := in.ReadBytes('\n')
		if err != nil {
			return fmt.Errorf("%s: line %d: %w", b.Body(), i+1, err)
		}
		var l struct{ Body, Params, Request json.RawMessage }
		if err := json.Unmarshal(bytes.TrimPrefix(line, []byte{','}), &l); err != nil {
			return fmt.Errorf("%s: line %d: %w", b.Body(), i+1, err)
		}
		for _, body := range []json.RawMessage{l.Body, l.Params, l.Request} {
			if body != nil && !each(i, body) {
				return nil
			}
		}
	}
	return nil
}

// Index is the place of a result's custom_id in the batch; false if it is not of the batch.
func (b *Batch) Index(customID string) (int, bool) {
	text, ok := strings.CutPrefix(customID, b.Mark+"-")
	n, err := strconv.Atoi(text)
	return n, ok && err == nil && n >= 0 && n < b.Requests
}

// Open gives the batches of a folder, in the order of their marks, and removes what a kill
// left of others. A folder that is not there has none.
func Open(dir string) (list []*Batch, err error) {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	known := map[string]bool{}
	for _, e := range entries {
		mark, ok := strings.CutSuffix(e.Name(), ".json")
		if !ok {
			continue
		}
		data, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			return nil, err
		}
		b := &Batch{dir: dir}
		if err := json.Unmarshal(data, b); err != nil || b.Mark != mark {
			return nil, fmt.Errorf("%s is no state of a batch (%v)", filepath.Join(dir, e.Name()), err)
		}
		known[mark] = true
		list = append(list, b)
	}
	for _, e := range entries {
		mark := strings.TrimSuffix(e.Name(), filepath.Ext(e.Name()))
		if strings.HasPrefix(mark, "llmq-") && !known[mark] {
			if err := os.Remove(filepath.Join(dir, e.Name())); err != nil {
				return nil, err
			}
		}
	}
	slices.SortFunc(list, func(a, b *Batch) int { return strings.Compare(a.Mark, b.Mark) })
	return list, nil
}
