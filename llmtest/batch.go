package llmtest

import (
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"sync"
	"time"
)

// Batches says how a server runs batches: those of [OpenAI], [Anthropic] and [Gemini], which
// are a provider's own queue for many requests.
//
// A batch is checked during the first tenth of Duration, its requests are done one
// after the other until the last tenth, and then its results are made ready. Its
// requests count for no limit, as all three have other limits for them
// (developers.openai.com/api/docs/guides/batch,
// platform.claude.com/docs/en/build-with-claude/batch-processing,
// ai.google.dev/gemini-api/docs/batch-api). Fault shares fail requests by their
// bodies; fault scripts do not count them.
type Batches struct {
	Duration    time.Duration // from creation to completion; 0 completes a batch at once
	Window      time.Duration // after which what is not done expires; 0 is the provider's own: 24 h, 48 h for Gemini
	Canceling   time.Duration // how long a batch is being canceled; 0 cancels at once
	MaxRequests int           // of a batch; 0 is the provider's own: 50,000 for OpenAI, 100,000 for Anthropic, none for Gemini
	MaxBytes    int64         // of a batch; 0 is the provider's own: 200 MB for OpenAI, 256 MB for Anthropic, 2 GB for Gemini
}

func (b Batches) check() error {
	if b.Duration < 0 || b.Window < 0 || b.Canceling < 0 || b.MaxRequests < 0 || b.MaxBytes < 0 {
		return fmt.Errorf("llmtest: batches %+v: want nothing below zero", b)
	}
	return nil
}

// WithBatches sets how the server runs batches. Defaults to the zero [Batches].
func WithBatches(b Batches) Option { return func(c *config) { c.batches = b } }

// batchStore is the files and batches of a server, in order of their creation.
type batchStore struct {
	mu      sync.Mutex
	files   []*batchFile
	batches []*batchJob
}

// A batchFile is a file that was uploaded, or holds results.
type batchFile struct {
	id, name, purpose string
	created           time.Time
	data              []byte
}

// A batchJob is one batch.
type batchJob struct {
	id       string
	input    string // the file; "" of requests in the body
	name     string // of Gemini's, as is the model
	model    string
	endpoint string
	window   string
	metadata map[string]string
	created  time.Time
	expires  time.Time
	canceled time.Time // zero: nobody asked
	invalid  []batchProblem
	lines    []batchLine
	output   *batchFile // once it has ended
	errors   *batchFile
	counts   map[string]int // of results by their type, once it has ended
}

// A batchProblem is why a batch is not run.
type batchProblem struct {
	Code    string  `json:"code"`
	Message string  `json:"message"`
	Param   *string `json:"param"`
	Line    int     `json:"line"`
}

// A batchLine is one request of a batch.
type batchLine struct {
	CustomID string          `json:"custom_id"`
	Method   string          `json:"method"`
	URL      string          `json:"url"`
	Body     json.RawMessage `json:"body"`
	Metadata json.RawMessage `json:"-"` // of Gemini's in a body
}

// A batchPhase is how a batch stands at a moment.
type batchPhase struct {
	status string // in OpenAI's words
	done   int    // requests that were done
	at     time.Time
}

// ended reports whether nothing changes any more.
func (p batchPhase) ended() bool {
	switch p.status {
	case "completed", "expired", "cancelled", "failed":
		return true
	}
	return false
}

// phase is how a batch stands at a moment: nothing but the clock moves it.
func (b Batches) phase(j *batchJob, now time.Time) batchPhase {
	check := b.Duration / 10
	done := func(at time.Time) int {
		work := b.Duration - 2*check
		if work <= 0 {
			return len(j.lines)
		}
		share := float64(at.Sub(j.created)-check) / float64(work)
		return int(math.Floor(float64(len(j.lines)) * min(max(share, 0), 1)))
	}
	completes := j.created.Add(b.Duration)
	if !j.canceled.IsZero() {
		if end := j.canceled.Add(b.Canceling); !now.Before(end) {
			return batchPhase{"cancelled", done(j.canceled), end}
		}
		return batchPhase{"cancelling", done(j.canceled), now}
	}
	switch {
	case now.Before(j.created.Add(check)):
		return batchPhase{"validating", 0, now}
	case len(j.invalid) > 0:
		return batchPhase{"failed", 0, j.created.Add(check)}
	case completes.After(j.expires) && !now.Before(j.expires):
		return batchPhase{"expired", done(j.expires), j.expires}
	case !now.Before(completes):
		return batchPhase{"completed", len(j.lines), completes}
	case !now.Before(completes.Add(-check)):
		return batchPhase{"finalizing", len(j.lines), now}
	}
	return batchPhase{"in_progress", done(now), now}
}

// cancel cancels a batch, once, or reports that it has ended by itself.
func (b Batches) cancel(j *batchJob) (ended bool) {
	if !j.canceled.IsZero() {
		return false
	}
	now := time.Now()
	if b.phase(j, now).ended() {
		return true
	}
	j.canceled = now
	return false
}

// bounds are those of a batch: its own where it has any.
func (b Batches) bounds(requests int, bytes int64) (int, int64) {
	if b.MaxRequests > 0 {
		requests = b.MaxRequests
	}
	if b.MaxBytes > 0 {
		bytes = b.MaxBytes
	}
	return requests, bytes
}

// add stores a file. It wants the lock.
func (s *batchStore) add(name, purpose string, data []byte) *batchFile {
	f := &batchFile{id: fmt.Sprintf("file-%08x", len(s.files)+1), name: name, purpose: purpose, created: time.Now(), data: data}
	s.files = append(s.files, f)
	return f
}

// file finds a file, nil if there is none. It wants the lock.
func (s *batchStore) file(id string) *batchFile {
	if i := slices.IndexFunc(s.files, func(f *batchFile) bool { return f.id == id }); i >= 0 {
		return s.files[i]
	}
	return nil
}

// begin stores a batch that is created now, under prefix and its number. It wants the lock.
func (s *Server) begin(j *batchJob, prefix string, window time.Duration) {
	if s.config.batches.Window > 0 {
		window = s.config.batches.Window
	}
	j.id, j.created = fmt.Sprintf("%s%08x", prefix, len(s.store.batches)+1), time.Now()
	j.expires = j.created.Add(window)
	s.store.batches = append(s.store.batches, j)
}

// job finds a batch, nil if there is none. It wants the lock.
func (s *batchStore) job(id string) *batchJob {
	if i := slices.IndexFunc(s.batches, func(j *batchJob) bool { return j.id == id }); i >= 0 {
		return s.batches[i]
	}
	return nil
}

// page is the batches that a request asks for, the latest first: so many as its member size
// says, 20 unless that is from 1 to most, behind the one that its member after names. last is
// the id of the last of them. It wants the lock.
func (s *batchStore) page(r *http.Request, size string, most int, after string) (page []*batchJob, last *string, more bool) {
	query := r.URL.Query()
	limit, err := strconv.Atoi(query.Get(size))
	if err != nil || limit < 1 || limit > most {
		limit = 20
	}
	behind := query.Get(after)
	for _, j := range slices.Backward(s.batches) {
		switch {
		case behind != "":
			if j.id == behind {
				behind = ""
			}
		case len(page) == limit:
			return page, last, true
		default:
			page, last = append(page, j), &j.id
		}
	}
	return page, last, false
}

// list is the objects of a page, and the id of its first.
func list(page []*batchJob, object func(*batchJob) any) (objects []any, first *string) {
	objects = []any{}
	for _, j := range page {
		objects = append(objects, object(j))
		first = &page[0].id
	}
	return objects, first
}

// answer answers the i-th request of a batch, which read reads.
func (s *Server) answer(j *batchJob, i int, read operation) (whole any, p *problem) {
	body := j.lines[i].Body
	request := &http.Request{Method: http.MethodPost, URL: &url.URL{}, Header: http.Header{}}
	c, f, p := read(request, body)
	if p == nil {
		c.body = hash(body)
		r := s.config.plan(&c, &ticket{accepted: math.MaxInt64})
		if p = r.fault.problem(false); p == nil {
			return f.whole(&answer{call: &c, number: i, began: j.created, text: r.text(), tokens: r.tokens, cut: r.cut}), nil
		}
	}
	s.complete(p)
	return nil, p
}
