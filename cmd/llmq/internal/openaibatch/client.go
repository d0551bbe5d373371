// Package openaibatch speaks OpenAI's Batch API: it uploads a file of requests, makes a batch
// of it, asks how it stands, cancels it and reads its results. The source of what it knows is
// developers.openai.com/api/reference/resources/batches and github.com/openai/openai-openapi.
package openaibatch

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime/multipart"
	"net/http"
	"net/url"
	"os"
	"time"

	"github.com/llmqueue/llmqueue/cmd/llmq/internal/caller"
)

// The bounds of a batch, as the reference of POST /v1/batches gives them: "The file can
// contain up to 50,000 requests, and can be up to 200 MB in size."
const (
	MaxRequests = 50_000
	MaxBytes    = 200_000_000
)

// metadataKey is the name of the mark in a batch's metadata.
const metadataKey = "llmq"

// Batch is how a batch stands.
type Batch struct {
	ID       string            `json:"id"`
	Status   string            `json:"status"`
	Output   string            `json:"output_file_id"` // empty: no request was answered
	Failures string            `json:"error_file_id"`  // empty: none failed
	Created  int64             `json:"created_at"`     // Unix seconds, as are these
	Done     int64             `json:"completed_at"`
	Expired  int64             `json:"expired_at"`
	Canceled int64             `json:"cancelled_at"`
	Metadata map[string]string `json:"metadata"`
	Counts   struct {
		Total     int `json:"total"`
		Completed int `json:"completed"`
		Failed    int `json:"failed"`
	} `json:"request_counts"`
	Errors *struct {
		Data []struct {
			Code    string `json:"code"`
			Message string `json:"message"`
		} `json:"data"`
	} `json:"errors"`
}

// Ended reports whether the batch changes no more.
func (b *Batch) Ended() bool {
	switch b.Status {
	case "completed", "expired", "cancelled", "failed":
		return true
	}
	return false
}

// Took is the time from the batch's creation to its end, 0 if the provider does not say.
func (b *Batch) Took() time.Duration {
	end := cmp.Or(b.Done, b.Expired, b.Canceled)
	return max(time.Duration(end-b.Created)*time.Second, 0)
}

// Refused says why the provider did not run the batch, and the code of that.
func (b *Batch) Refused() (code, message string) {
	if b.Errors == nil || len(b.Errors.Data) == 0 {
		return "", "it does not say why"
	}
	return b.Errors.Data[0].Code, b.Errors.Data[0].Message
}

// Line is the result of one request.
type Line struct {
	CustomID string `json:"custom_id"`
	Response *struct {
		Status    int             `json:"status_code"`
		RequestID string          `json:"request_id"`
		Body      json.RawMessage `json:"body"`
	} `json:"response"`
	Error *struct {
		Code    string `json:"code"`
		Message string `json:"message"`
	} `json:"error"`
}

// Client speaks to the provider. Safe for concurrent use.
type Client struct{ Caller *caller.Caller }

// object sends a request and reads the JSON object that answers it.
func (c *Client) object(ctx context.Context, method, path, contentType string, body io.Reader, size int64, into any) error {
	res, err := c.Caller.Send(ctx, method, path, contentType, body, size)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if err := json.NewDecoder(io.LimitReader(res.Body, 16<<20)).Decode(into); err != nil {
		return fmt.Errorf("%s %s: the answer cannot be read: %w", method, path, err)
	}
	return nil
}

// Upload uploads a file of requests and returns its id. The provider deletes it after 30
// days, as the reference of POST /v1/files says.
func (c *Client) Upload(ctx context.Context, name, path string) (id string, err error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return "", err
	}
	var head bytes.Buffer
	form := multipart.NewWriter(&head)
	if err := form.WriteField("purpose", "batch"); err != nil {
		return "", err
	}
	if _, err := form.CreateFormFile("file", name); err != nil {
		return "", err
	}
	tail := fmt.Sprintf("\r\n--%s--\r\n", form.Boundary())
	size := int64(head.Len()) + info.Size() + int64(len(tail))
	var answer struct {
		ID string `json:"id"`
	}
	body := io.MultiReader(&head, f, bytes.NewReader([]byte(tail)))
	if err := c.object(ctx, http.MethodPost, "/v1/files", form.FormDataContentType(), body, size, &answer); err != nil {
		return "", err
	}
	if answer.ID == "" {
		return "", errors.New("the provider answered the upload without a file's id")
	}
	return answer.ID, nil
}

// Create makes a batch of a file, with a mark by which Find knows it.
func (c *Client) Create(ctx context.Context, file, endpoint, mark string) (*Batch, error) {
	body, err := json.Marshal(map[string]any{
		"input_file_id": file, "endpoint": endpoint, "completion_window": "24h", "metadata": map[string]string{metadataKey: mark},
	})
	if err != nil {
		return nil, err
	}
	b := &Batch{}
	err = c.object(ctx, http.MethodPost, "/v1/batches", "application/json", bytes.NewReader(body), int64(len(body)), b)
	if err == nil && b.ID == "" {
		err = errors.New("the provider answered without a batch's id")
	}
	return b, err
}

// Find finds the batch that carries a mark and was made since then; nil if there is none.
func (c *Client) Find(ctx context.Context, mark string, since time.Time) (*Batch, error) {
	for after := ""; ; {
		var page struct {
			Data []*Batch `json:"data"`
			More bool     `json:"has_more"`
		}
		query := url.Values{"limit": {"100"}}
		if after != "" {
			query.Set("after", after)
		}
		if err := c.object(ctx, http.MethodGet, "/v1/batches?"+query.Encode(), "", nil, 0, &page); err != nil {
			return nil, err
		}
		for _, b := range page.Data {
			if b.Metadata[metadataKey] == mark {
				return b, nil
			}
			after = b.ID
		}
		// The latest come first. An hour is for clocks that differ.
		if !page.More || len(page.Data) == 0 || page.Data[len(page.Data)-1].Created < since.Add(-time.Hour).Unix() {
			return nil, nil
		}
	}
}

// Get asks how a batch stands.
func (c *Client) Get(ctx context.Context, id string) (*Batch, error) {
	b := &Batch{}
	return b, c.object(ctx, http.MethodGet, "/v1/batches/"+url.PathEscape(id), "", nil, 0, b)
}

// Cancel asks for the end of a batch. It takes up to ten minutes, and what is done by then is
// kept. A batch that has ended meanwhile is no error.
func (c *Client) Cancel(ctx context.Context, id string) error {
	err := c.object(ctx, http.MethodPost, "/v1/batches/"+url.PathEscape(id)+"/cancel", "", nil, 0, &Batch{})
	if s := (*caller.StatusError)(nil); errors.As(err, &s) && (s.Status == http.StatusConflict || s.Status == http.StatusBadRequest) {
		if b, again := c.Get(ctx, id); again == nil && b.Ended() {
			return nil
		}
	}
	return err
}

// maxLine is the longest line of results that is read.
const maxLine = 64 << 20

// Results gives the results of a batch that has ended, those that failed among them.
func (c *Client) Results(ctx context.Context, b *Batch, each func(*Line) error) error {
	for _, file := range []string{b.Output, b.Failures} {
		if file == "" {
			continue
		}
		if err := c.lines(ctx, file, each); err != nil {
			return err
		}
	}
	return nil
}

func (c *Client) lines(ctx context.Context, file string, each func(*Line) error) error {
	res, err := c.Caller.Send(ctx, http.MethodGet, "/v1/files/"+url.PathEscape(file)+"/content", "", nil, 0)
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
		l := &Line{}
		if err := json.Unmarshal(in.Bytes(), l); err != nil {
			return fmt.Errorf("the file of results %s has a line that cannot be read: %w", file, err)
		}
		if err := each(l); err != nil {
			return err
		}
	}
	if err := in.Err(); err != nil {
		return fmt.Errorf("the file of results %s broke off: %w", file, err)
	}
	return nil
}
