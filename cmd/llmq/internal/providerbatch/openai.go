package providerbatch

import (
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
	"path/filepath"
	"time"

	"github.com/llmqueue/llmqueue/cmd/llmq/internal/caller"
	"github.com/llmqueue/llmqueue/cmd/llmq/internal/spool"
)

// openAI is OpenAI's Batch API: a file of requests is uploaded, and a batch made of it. The
// source of what it knows is developers.openai.com/api/reference/resources/batches and
// github.com/openai/openai-openapi.
type openAI struct{ sender }

// OpenAI is a client of OpenAI's Batch API.
func OpenAI(c *caller.Caller) Client { return openAI{sender{c}} }

// Bounds: the reference of POST /v1/batches says "The file can contain up to 50,000 requests,
// and can be up to 200 MB in size."
func (openAI) Bounds() (int, int64) { return 50_000, 200_000_000 }

// metadataKey is the name of the mark in a batch's metadata.
const metadataKey = "llmq"

// openAIBatch is the provider's object.
type openAIBatch struct {
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

// batch is what the object says.
func (o *openAIBatch) batch() *Batch {
	b := &Batch{ID: o.ID, Status: o.Status, Done: o.Counts.Completed + o.Counts.Failed}
	switch o.Status {
	case "completed", "expired", "cancelled", "failed":
		b.Ended = true
	}
	b.Took = max(time.Duration(cmp.Or(o.Done, o.Expired, o.Canceled)-o.Created)*time.Second, 0)
	for _, file := range []string{o.Output, o.Failures} {
		if file != "" {
			b.output = append(b.output, "/v1/files/"+url.PathEscape(file)+"/content")
		}
	}
	if o.Status == "failed" {
		b.Refused = &Refusal{Message: "it does not say why"}
		if o.Errors != nil && len(o.Errors.Data) > 0 {
			b.Refused = &Refusal{o.Errors.Data[0].Code, o.Errors.Data[0].Message}
		}
	}
	return b
}

// Upload uploads a file of requests and returns its id. The provider deletes it after 30
// days, as the reference of POST /v1/files says.
func (c openAI) Upload(ctx context.Context, b *spool.Batch) (file string, err error) {
	f, err := os.Open(b.Body())
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
	if _, err := form.CreateFormFile("file", filepath.Base(b.Body())); err != nil {
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

// Create makes a batch of the file, with a mark by which Find knows it.
func (c openAI) Create(ctx context.Context, b *spool.Batch) (*Batch, error) {
	body, err := json.Marshal(map[string]any{
		"input_file_id": b.File, "endpoint": b.Path, "completion_window": "24h", "metadata": map[string]string{metadataKey: b.Mark},
	})
	if err != nil {
		return nil, err
	}
	o := &openAIBatch{}
	err = c.object(ctx, http.MethodPost, "/v1/batches", "application/json", bytes.NewReader(body), int64(len(body)), o)
	if err == nil && o.ID == "" {
		err = errNoID
	}
	return o.batch(), err
}

// Find finds the batch that carries the mark.
func (c openAI) Find(ctx context.Context, b *spool.Batch, _ map[string]bool) (*Batch, error) {
	for after := ""; ; {
		var page struct {
			Data []*openAIBatch `json:"data"`
			More bool           `json:"has_more"`
		}
		query := url.Values{"limit": {"100"}}
		if after != "" {
			query.Set("after", after)
		}
		if err := c.object(ctx, http.MethodGet, "/v1/batches?"+query.Encode(), "", nil, 0, &page); err != nil {
			return nil, err
		}
		for _, o := range page.Data {
			if o.Metadata[metadataKey] == b.Mark {
				return o.batch(), nil
			}
			after = o.ID
		}
		// The latest come first.
		if !page.More || len(page.Data) == 0 || page.Data[len(page.Data)-1].Created < b.Sent.Add(-skew).Unix() {
			return nil, nil
		}
	}
}

// Get asks how a batch stands.
func (c openAI) Get(ctx context.Context, id string) (*Batch, error) {
	o := &openAIBatch{}
	err := c.object(ctx, http.MethodGet, "/v1/batches/"+url.PathEscape(id), "", nil, 0, o)
	return o.batch(), err
}

// Cancel takes up to ten minutes.
func (c openAI) Cancel(ctx context.Context, id string) error {
	err := c.object(ctx, http.MethodPost, "/v1/batches/"+url.PathEscape(id)+"/cancel", "", nil, 0, &openAIBatch{})
	return endedMeanwhile(ctx, c, id, err)
}

// Results reads the output file and the error file.
func (c openAI) Results(ctx context.Context, b *Batch, each func(*Line) error) error {
	return c.results(ctx, b, func(line []byte) (*Line, error) {
		l := &Line{}
		return l, json.Unmarshal(line, l)
	}, each)
}
