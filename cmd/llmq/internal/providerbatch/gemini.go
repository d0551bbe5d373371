package providerbatch

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/llmqueue/llmqueue/cmd/llmq/internal/caller"
	"github.com/llmqueue/llmqueue/cmd/llmq/internal/spool"
)

// gemini is the Gemini API's batch mode: a file of requests is uploaded, and a batch of one
// model made of it. The source of what it knows is ai.google.dev/api/batch-api,
// ai.google.dev/gemini-api/docs/batch-api, ai.google.dev/api/files, and batches.go and
// files.go of github.com/googleapis/go-genai.
type gemini struct{ sender }

// Gemini is a client of the Gemini API's batch mode.
func Gemini(c *caller.Caller) Client { return gemini{sender{c}} }

// Bounds: the guide says that an input file may have 2 GB. It names no number of requests: the
// bound of them keeps what a batch takes of memory small.
func (gemini) Bounds() (int, int64) { return 100_000, 2_000_000_000 }

const geminiVersion = "/v1beta/"

// operation is the provider's object. A batch's own are in its metadata, and its output there
// or in the response.
type operation struct {
	Name     string `json:"name"`
	Metadata struct {
		State   string    `json:"state"`
		Name    string    `json:"displayName"`
		Created time.Time `json:"createTime"`
		Ended   time.Time `json:"endTime"`
		Stats   struct {
			Succeeded string `json:"successfulRequestCount"` // a number of 64 bits is a text
			Failed    string `json:"failedRequestCount"`
		} `json:"batchStats"`
		Output output `json:"output"`
	} `json:"metadata"`
	Response output `json:"response"`
	Error    *struct {
		Code    int    `json:"code"`
		Message string `json:"message"`
	} `json:"error"`
}

type output struct {
	File string `json:"responsesFile"`
}

// batch is what the object says. The API names states BATCH_STATE_…, the SDKs JOB_STATE_….
func (o *operation) batch() *Batch {
	_, state, _ := strings.Cut(o.Metadata.State, "_STATE_")
	b := &Batch{ID: o.Name, Status: strings.ToLower(state)}
	for _, n := range []string{o.Metadata.Stats.Succeeded, o.Metadata.Stats.Failed} {
		count, _ := strconv.Atoi(n) // none: 0
		b.Done += count
	}
	switch state {
	case "SUCCEEDED", "FAILED", "CANCELLED", "EXPIRED":
		b.Ended, b.Took = true, max(o.Metadata.Ended.Sub(o.Metadata.Created), 0)
	}
	b.Expired = state == "EXPIRED"
	for _, out := range []output{o.Response, o.Metadata.Output} {
		if out.File != "" {
			b.output = []string{geminiVersion + path(out.File) + ":download?alt=media"}
			break
		}
	}
	if state == "FAILED" && b.output == nil {
		b.Refused = &Refusal{Message: "it does not say why"}
		if o.Error != nil {
			b.Refused = &Refusal{fmt.Sprint(o.Error.Code), o.Error.Message}
		}
	}
	return b
}

// path is the name of a resource in an address: batches/… or files/….
func path(name string) string {
	kind, id, _ := strings.Cut(name, "/")
	return kind + "/" + url.PathEscape(id)
}

// Upload uploads a file of requests in the two steps of the resumable protocol, and returns
// its name. The provider deletes it after 48 hours, as ai.google.dev/gemini-api/docs/files
// says. The address of the second step is taken under the base URL, so that the key goes
// nowhere else.
func (c gemini) Upload(ctx context.Context, b *spool.Batch) (file string, err error) {
	f, err := os.Open(b.Body())
	if err != nil {
		return "", err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return "", err
	}
	about := fmt.Appendf(nil, `{"file":{"display_name":%q}}`, b.Mark)
	size := strconv.FormatInt(info.Size(), 10)
	res, err := c.caller.SendWith(ctx, http.MethodPost, "/upload/v1beta/files", header(
		"Content-Type", "application/json", "X-Goog-Upload-Protocol", "resumable", "X-Goog-Upload-Command", "start",
		"X-Goog-Upload-Header-Content-Length", size, "X-Goog-Upload-Header-Content-Type", "application/jsonl",
	), bytes.NewReader(about), int64(len(about)))
	if err != nil {
		return "", err
	}
	_ = res.Body.Close() // it says nothing
	to, err := url.Parse(res.Header.Get("X-Goog-Upload-Url"))
	if err != nil || to.Path == "" {
		return "", errors.New("the provider answered the upload without an address for the file")
	}
	res, err = c.caller.SendWith(ctx, http.MethodPost, to.RequestURI(), header(
		"X-Goog-Upload-Offset", "0", "X-Goog-Upload-Command", "upload, finalize",
	), f, info.Size())
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	var answer struct {
		File struct {
			Name string `json:"name"`
		} `json:"file"`
	}
	if err := json.NewDecoder(res.Body).Decode(&answer); err != nil || answer.File.Name == "" {
		return "", fmt.Errorf("the provider answered the upload without a file's name (%v)", err)
	}
	return answer.File.Name, nil
}

// header is headers, each a name and a value.
func header(list ...string) http.Header {
	h := http.Header{}
	for i := 0; i < len(list); i += 2 {
		h.Set(list[i], list[i+1])
	}
	return h
}

// Create makes a batch of the file, whose display name is the mark by which Find knows it.
func (c gemini) Create(ctx context.Context, b *spool.Batch) (*Batch, error) {
	body, err := json.Marshal(map[string]any{"batch": map[string]any{
		"display_name": b.Mark, "input_config": map[string]string{"file_name": b.File},
	}})
	if err != nil {
		return nil, err
	}
	o := &operation{}
	to := strings.TrimSuffix(b.Path, ":generateContent") + ":batchGenerateContent"
	err = c.object(ctx, http.MethodPost, to, "application/json", bytes.NewReader(body), int64(len(body)), o)
	if err == nil && o.Name == "" {
		err = errNoID
	}
	return o.batch(), err
}

// Find finds the batch that carries the mark. The order of the list is not documented, so all
// of it is read.
func (c gemini) Find(ctx context.Context, b *spool.Batch, _ map[string]bool) (*Batch, error) {
	for token := ""; ; {
		var page struct {
			Operations []*operation `json:"operations"`
			Next       string       `json:"nextPageToken"`
		}
		query := url.Values{"pageSize": {"100"}}
		if token != "" {
			query.Set("pageToken", token)
		}
		if err := c.object(ctx, http.MethodGet, geminiVersion+"batches?"+query.Encode(), "", nil, 0, &page); err != nil {
			return nil, err
		}
		for _, o := range page.Operations {
			if o.Metadata.Name == b.Mark {
				return o.batch(), nil
			}
		}
		if token = page.Next; token == "" {
			return nil, nil
		}
	}
}

// Get asks how a batch stands.
func (c gemini) Get(ctx context.Context, id string) (*Batch, error) {
	o := &operation{}
	err := c.object(ctx, http.MethodGet, geminiVersion+path(id), "", nil, 0, o)
	return o.batch(), err
}

// Cancel asks for the end of a batch. Whether what is done by then is kept is not documented.
func (c gemini) Cancel(ctx context.Context, id string) error {
	err := c.object(ctx, http.MethodPost, geminiVersion+path(id)+":cancel", "", nil, 0, &struct{}{})
	return endedMeanwhile(ctx, c, id, err)
}

// rpcStatuses are those of the codes of google.rpc, by
// github.com/googleapis/googleapis/blob/master/google/rpc/code.proto: a result has no other.
var rpcStatuses = map[int]int{
	3: 400, 4: 504, 5: 404, 6: 409, 7: 403, 8: 429, 9: 400, 10: 409, 11: 400, 12: 501, 13: 500, 14: 503, 16: 401,
}

// Results reads the file of results.
func (c gemini) Results(ctx context.Context, b *Batch, each func(*Line) error) error {
	return c.results(ctx, b, readContent, each)
}

// readContent reads the result of one request.
func readContent(line []byte) (*Line, error) {
	var m struct {
		Key      string          `json:"key"`
		Response json.RawMessage `json:"response"`
		Error    json.RawMessage `json:"error"`
	}
	if err := json.Unmarshal(line, &m); err != nil {
		return nil, err
	}
	l := &Line{CustomID: m.Key}
	switch {
	case m.Response != nil:
		l.Response = &Response{Status: http.StatusOK, Body: m.Response}
	case m.Error != nil:
		var e struct {
			Code int `json:"code"`
		}
		_ = json.Unmarshal(m.Error, &e) // what is none has no code
		status := rpcStatuses[e.Code]
		switch {
		case e.Code == 1:
			l.Error = &Error{Canceled, "the batch was canceled before this request ran"}
			return l, nil
		case e.Code >= 400 && e.Code <= 599:
			status = e.Code
		case status == 0:
			status = http.StatusInternalServerError
		}
		l.Response = &Response{Status: status, Body: fmt.Appendf(nil, `{"error":%s}`, m.Error)}
	}
	return l, nil
}
