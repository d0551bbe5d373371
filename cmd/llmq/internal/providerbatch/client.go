// Package providerbatch speaks the batch APIs of providers: it submits a batch, finds it
// again, asks how it stands, cancels it and reads its results.
package providerbatch

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/llmqueue/llmqueue/cmd/llmq/internal/caller"
	"github.com/llmqueue/llmqueue/cmd/llmq/internal/spool"
)

// Client is the batch API of a provider. It is safe for concurrent use.
type Client interface {
	// Bounds are how many requests and bytes a batch may have.
	Bounds() (requests int, bytes int64)

	// Upload uploads a batch's file and returns what names it, where that is a step of its
	// own.
	Upload(ctx context.Context, b *spool.Batch) (file string, err error)

	// Create submits a batch.
	Create(ctx context.Context, b *spool.Batch) (*Batch, error)

	// Find finds a batch that was submitted, nil if there is none. known are the ids that
	// are of others.
	Find(ctx context.Context, b *spool.Batch, known map[string]bool) (*Batch, error)

	// Get asks how a batch stands.
	Get(ctx context.Context, id string) (*Batch, error)

	// Cancel asks for the end of a batch: what is done by then is kept. A batch that has
	// ended meanwhile is no error.
	Cancel(ctx context.Context, id string) error

	// Results gives the results of a batch that has ended, those that failed among them.
	Results(ctx context.Context, b *Batch, each func(*Line) error) error
}

// Batch is how a batch stands.
type Batch struct {
	ID      string
	Status  string        // in the provider's words
	Ended   bool          // it changes no more
	Done    int           // requests that are through
	Took    time.Duration // to its end; 0: not known
	Expired bool          // what has no result was not run in time
	Refused *Refusal      // it was not run at all
	output  []string      // where its results are
}

// Refusal is why a batch was not run.
type Refusal struct{ Code, Message string }

// Line is the result of one request.
type Line struct {
	CustomID string    `json:"custom_id"`
	Response *Response `json:"response"`
	Error    *Error    `json:"error"`
}

// Response is an answer, or an error that came in its place.
type Response struct {
	Status    int             `json:"status_code"`
	RequestID string          `json:"request_id"`
	Body      json.RawMessage `json:"body"`
}

// Error is why a request was not run: its code is Canceled or Expired, or another.
type Error struct {
	Code    string `json:"code"`
	Message string `json:"message"`
}

// The codes of requests that were not run. Expired is OpenAI's; that it has the other for those of
// a canceled batch is inferred: under another code they would count as failures.
const (
	Canceled = "batch_cancelled"
	Expired  = "batch_expired"
)

// NotInTime is why a request was not run whose batch has expired.
var NotInTime = &Error{Expired, "the batch expired before this request ran"}

// sender sends what the clients send.
type sender struct{ caller *caller.Caller }

// object sends a request and reads the JSON object that answers it.
func (c sender) object(ctx context.Context, method, path, contentType string, body io.Reader, size int64, into any) error {
	res, err := c.caller.Send(ctx, method, path, contentType, body, size)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if err := json.NewDecoder(io.LimitReader(res.Body, 16<<20)).Decode(into); err != nil {
		return fmt.Errorf("%s %s: the answer cannot be read: %w", method, path, err)
	}
	return nil
}

// results gives each line of the files of results as read takes it in.
func (c sender) results(ctx context.Context, b *Batch, read func(line []byte) (*Line, error), each func(*Line) error) error {
	for _, path := range b.output {
		err := c.lines(ctx, path, func(line []byte) error {
			l, err := read(line)
			if err != nil {
				return fmt.Errorf("the results at %s have a line that cannot be read: %w", path, err)
			}
			return each(l)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// maxLine is the longest line of results that is read.
const maxLine = 64 << 20

// lines reads a file of results.
func (c sender) lines(ctx context.Context, path string, each func(line []byte) error) error {
	res, err := c.caller.Send(ctx, http.MethodGet, path, "", nil, 0)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	in := bufio.NewScanner(res.Body)
	in.Buffer(make([]byte, 64<<10), maxLine)
	for in.Scan() {
		if len(bytes.TrimSpace(in.Bytes())) == 0 {
			continue
		}
		if err := each(in.Bytes()); err != nil {
			return err
		}
	}
	if err := in.Err(); err != nil {
		return fmt.Errorf("the results at %s broke off: %w", path, err)
	}
	return nil
}

var errNoID = errors.New("the provider answered without a batch's id")

// skew is how far the provider's clock and this one may differ.
const skew = time.Hour

// endedMeanwhile is the error of a cancelation, unless the batch has ended.
func endedMeanwhile(ctx context.Context, c Client, id string, err error) error {
	if s := (*caller.StatusError)(nil); errors.As(err, &s) && (s.Status == http.StatusConflict || s.Status == http.StatusBadRequest) {
		if b, again := c.Get(ctx, id); again == nil && b.Ended {
			return nil
		}
	}
	return err
}
