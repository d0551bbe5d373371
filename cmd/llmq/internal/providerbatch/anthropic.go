package providerbatch

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/llmqueue/llmqueue/cmd/llmq/internal/caller"
	"github.com/llmqueue/llmqueue/cmd/llmq/internal/spool"
)

// anthropic is Anthropic's Message Batches API: one request holds all of a batch. The source
// of what it knows is platform.claude.com/docs/en/api/messages/batches and
// platform.claude.com/docs/en/build-with-claude/batch-processing.
type anthropic struct{ sender }

// Anthropic is a client of Anthropic's Message Batches API.
func Anthropic(c *caller.Caller) Client { return anthropic{sender{c}} }

// Bounds: the guide says "A Message Batch is limited to either 100,000 Message requests or
// 256 MB in size, whichever is reached first."
func (anthropic) Bounds() (int, int64) { return 100_000, 256_000_000 - 1000 } // what is around the requests

const messageBatches = "/v1/messages/batches"

// messageBatch is the provider's object.
type messageBatch struct {
	ID      string    `json:"id"`
	Status  string    `json:"processing_status"`
	Created time.Time `json:"created_at"`
	EndedAt time.Time `json:"ended_at"`
	Results string    `json:"results_url"`
	Counts  struct {
		Processing int `json:"processing"`
		Succeeded  int `json:"succeeded"`
		Errored    int `json:"errored"`
		Canceled   int `json:"canceled"`
		Expired    int `json:"expired"`
	} `json:"request_counts"`
}

func (m *messageBatch) total() int {
	return m.Counts.Processing + m.Counts.Succeeded + m.Counts.Errored + m.Counts.Canceled + m.Counts.Expired
}

// batch is what the object says. The results are fetched from their place under the base URL,
// which results_url repeats, so that the key goes nowhere else.
func (m *messageBatch) batch() *Batch {
	b := &Batch{ID: m.ID, Status: m.Status, Ended: m.Status == "ended", Done: m.Counts.Succeeded + m.Counts.Errored}
	if b.Ended {
		b.Took = max(m.EndedAt.Sub(m.Created), 0)
		if m.Results != "" {
			b.output = []string{messageBatches + "/" + url.PathEscape(m.ID) + "/results"}
		}
	}
	return b
}

// Upload does nothing: the batch goes with its submission.
func (anthropic) Upload(context.Context, *spool.Batch) (string, error) { return "none", nil }

// Create submits the batch.
func (c anthropic) Create(ctx context.Context, b *spool.Batch) (*Batch, error) {
	f, err := os.Open(b.Body())
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	const head, tail = `{"requests":[`, `]}`
	m := &messageBatch{}
	body := io.MultiReader(strings.NewReader(head), f, strings.NewReader(tail))
	err = c.object(ctx, http.MethodPost, messageBatches, "application/json", body, info.Size()+int64(len(head)+len(tail)), m)
	if err == nil && m.ID == "" {
		err = errNoID
	}
	return m.batch(), err
}

// Find finds a batch of so many requests that was made since the submission and has its mark
// in the results. A batch has no other place for a mark: while one runs that may be it, that
// is an error, which passes when it ends.
func (c anthropic) Find(ctx context.Context, b *spool.Batch, known map[string]bool) (*Batch, error) {
	var unsure error
	for after := ""; ; {
		query := url.Values{"limit": {"100"}}
		if after != "" {
			query.Set("after_id", after)
		}
		var page struct {
			Data []*messageBatch `json:"data"`
			More bool            `json:"has_more"`
		}
		if err := c.object(ctx, http.MethodGet, messageBatches+"?"+query.Encode(), "", nil, 0, &page); err != nil {
			return nil, err
		}
		old := false
		for _, m := range page.Data {
			after, old = m.ID, m.Created.Before(b.Sent.Add(-skew))
			if old || known[m.ID] || m.total() != b.Requests {
				continue
			}
			at := m.batch()
			if !at.Ended {
				unsure = fmt.Errorf("the submission of %d requests had no answer, and the batch %s of as many may be it: that shows when it has ended", b.Requests, m.ID)
				continue
			}
			switch is, err := c.marked(ctx, at, b); {
			case err != nil:
				return nil, err
			case is:
				return at, nil
			}
		}
		if !page.More || len(page.Data) == 0 || old {
			return nil, unsure
		}
	}
}

// marked reports whether the results of a batch have the mark of ours.
func (c anthropic) marked(ctx context.Context, at *Batch, b *spool.Batch) (is bool, err error) {
	err = c.Results(ctx, at, func(l *Line) error {
		_, is = b.Index(l.CustomID)
		return io.EOF // the first tells
	})
	if err == io.EOF {
		err = nil
	}
	return is, err
}

// Get asks how a batch stands.
func (c anthropic) Get(ctx context.Context, id string) (*Batch, error) {
	m := &messageBatch{}
	err := c.object(ctx, http.MethodGet, messageBatches+"/"+url.PathEscape(id), "", nil, 0, m)
	return m.batch(), err
}

// Cancel asks for the end of a batch.
func (c anthropic) Cancel(ctx context.Context, id string) error {
	err := c.object(ctx, http.MethodPost, messageBatches+"/"+url.PathEscape(id)+"/cancel", "", nil, 0, &messageBatch{})
	return endedMeanwhile(ctx, c, id, err)
}

// statuses are those of the types of errors, as
// platform.claude.com/docs/en/api/errors has them: a result has none.
var statuses = map[string]int{
	"invalid_request_error": 400, "authentication_error": 401, "billing_error": 402, "permission_error": 403, "not_found_error": 404,
	"request_too_large": 413, "rate_limit_error": 429, "api_error": 500, "timeout_error": 504, "overloaded_error": 529,
}

// Results reads the results.
func (c anthropic) Results(ctx context.Context, b *Batch, each func(*Line) error) error {
	return c.results(ctx, b, readMessage, each)
}

// readMessage reads the result of one request.
func readMessage(line []byte) (*Line, error) {
	var m struct {
		CustomID string `json:"custom_id"`
		Result   struct {
			Type    string          `json:"type"`
			Message json.RawMessage `json:"message"`
			Error   json.RawMessage `json:"error"`
		} `json:"result"`
	}
	if err := json.Unmarshal(line, &m); err != nil {
		return nil, err
	}
	l := &Line{CustomID: m.CustomID}
	switch m.Result.Type {
	case "succeeded":
		l.Response = &Response{Status: http.StatusOK, Body: m.Result.Message}
	case "errored":
		var e struct {
			RequestID string `json:"request_id"`
			Error     struct {
				Type string `json:"type"`
			} `json:"error"`
		}
		_ = json.Unmarshal(m.Result.Error, &e) // what is none has no type
		status, ok := statuses[e.Error.Type]
		if !ok {
			status = http.StatusInternalServerError
		}
		l.Response = &Response{Status: status, RequestID: e.RequestID, Body: m.Result.Error}
	case "canceled":
		l.Error = &Error{Canceled, "the batch was canceled before this request ran"}
	case "expired":
		l.Error = NotInTime
	}
	return l, nil
}
