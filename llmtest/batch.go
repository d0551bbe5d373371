package llmtest

import (
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"sync"
	"time"
)

// Batches says how a server runs batches: those of [OpenAI] and [Anthropic], which are a
// provider's own queue for many requests.
//
// A batch is checked during the first tenth of Duration, its requests are done one
// after the other until the last tenth, and then its results are made ready. Its
// requests count for no limit, as both have other limits for them
// (developers.openai.com/api/docs/guides/batch,
// platform.claude.com/docs/en/build-with-claude/batch-processing). Fault shares fail requests by their
// bodies; fault scripts do not count them.
type Batches struct {
	Duration    time.Duration // from creation to completion; 0 completes a batch at once
	Window      time.Duration // after which what is not done expires; 0 is 24 h
	Canceling   time.Duration // how long a batch is being canceled; 0 cancels at once
	MaxRequests int           // of a batch; 0 is the provider's own: 50,000 for OpenAI, 100,000 for Anthropic
	MaxBytes    int64         // of a batch; 0 is the provider's own: 200 MB for OpenAI, 256 MB for Anthropic
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
	input    string // the file
	endpoint string
	window   string
	metadata map[string]string
	created  time.Time
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
	window := b.Window
	if window == 0 {
		window = 24 * time.Hour
	}
	done := func(at time.Time) int {
		work := b.Duration - 2*check
		if work <= 0 {
			return len(j.lines)
		}
		share := float64(at.Sub(j.created)-check) / float64(work)
		return int(math.Floor(float64(len(j.lines)) * min(max(share, 0), 1)))
	}
	expires, completes := j.created.Add(window), j.created.Add(b.Duration)
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
	case completes.After(expires) && !now.Before(expires):
		return batchPhase{"expired", done(expires), expires}
	case !now.Before(completes):
		return batchPhase{"completed", len(j.lines), completes}
	case !now.Before(completes.Add(-check)):
		return batchPhase{"finalizing", len(j.lines), now}
	}
	return batchPhase{"in_progress", done(now), now}
}

// page is up to limit batches, the latest first, behind one of them; the id of its last, and
// whether there are more. It wants the lock.
func (s *batchStore) page(after string, limit int) (page []*batchJob, last *string, more bool) {
	for _, j := range slices.Backward(s.batches) {
		switch {
		case after != "":
			if j.id == after {
				after = ""
			}
		case len(page) == limit:
			return page, last, true
		default:
			page, last = append(page, j), &j.id
		}
	}
	return page, last, false
}
