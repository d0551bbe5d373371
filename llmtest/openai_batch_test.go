package llmtest_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"mime/multipart"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/llmqueue/llmqueue/llmtest"
)

// batchClient asks a server for files and batches.
type batchClient struct {
	t   *testing.T
	srv *llmtest.Server
}

func (c batchClient) do(method, path, contentType string, body io.Reader) (int, []byte) {
	c.t.Helper()
	req, err := http.NewRequest(method, c.srv.URL()+path, body)
	require.NoError(c.t, err)
	req.Header.Set("Content-Type", contentType)
	res, err := c.srv.Client().Do(req)
	require.NoError(c.t, err)
	defer res.Body.Close()
	data, err := io.ReadAll(res.Body)
	require.NoError(c.t, err)
	return res.StatusCode, data
}

// object asks for a JSON object.
func (c batchClient) object(method, path, body string) (status int, object map[string]any) {
	c.t.Helper()
	status, data := c.do(method, path, "application/json", strings.NewReader(body))
	require.NoError(c.t, json.Unmarshal(data, &object), "%s", data)
	return status, object
}

func (c batchClient) upload(purpose string, lines ...string) (status int, id string) {
	c.t.Helper()
	var form bytes.Buffer
	w := multipart.NewWriter(&form)
	require.NoError(c.t, w.WriteField("purpose", purpose))
	part, err := w.CreateFormFile("file", "in.jsonl")
	require.NoError(c.t, err)
	_, _ = io.WriteString(part, strings.Join(lines, "\n")+"\n")
	require.NoError(c.t, w.Close())
	status, data := c.do("POST", "/files", w.FormDataContentType(), &form)
	var f struct{ ID string }
	require.NoError(c.t, json.Unmarshal(data, &f))
	return status, f.ID
}

// create starts a batch of lines, and returns its id.
func (c batchClient) create(lines ...string) string {
	c.t.Helper()
	status, file := c.upload("batch", lines...)
	require.Equal(c.t, 200, status)
	status, b := c.object("POST", "/batches", `{"input_file_id":"`+file+`","endpoint":"/v1/chat/completions","completion_window":"24h","metadata":{"mark":"`+file+`"}}`)
	require.Equal(c.t, 200, status, "%v", b)
	return b["id"].(string)
}

// results are the lines of a file of results, by custom_id.
func (c batchClient) results(batch map[string]any, field string) map[string]string {
	c.t.Helper()
	id, ok := batch[field].(string)
	if !ok {
		return nil
	}
	status, data := c.do("GET", "/files/"+id+"/content", "", nil)
	require.Equal(c.t, 200, status)
	list := map[string]string{}
	for line := range strings.Lines(string(data)) {
		var l struct {
			CustomID string `json:"custom_id"`
		}
		require.NoError(c.t, json.Unmarshal([]byte(line), &l))
		list[l.CustomID] = line
	}
	return list
}

func batchLines(n int) (lines []string) {
	for i := range n {
		lines = append(lines, fmt.Sprintf(`{"custom_id":"r%d","method":"POST","url":"/v1/chat/completions","body":{"model":"m","max_tokens":5,"messages":[{"role":"user","content":"question %d"}]}}`, i, i))
	}
	return lines
}

func TestBatchGoesThroughItsStates(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := llmtest.NewServer(t, llmtest.OpenAI(llmtest.RPM(1)), llmtest.InMemory(), llmtest.WithBatches(llmtest.Batches{Duration: 10 * time.Hour}))
		c := batchClient{t, srv}
		id := c.create(batchLines(10)...)
		for _, want := range []struct {
			after     time.Duration
			status    string
			completed float64
		}{{0, "validating", 0}, {2 * time.Hour, "in_progress", 1}, {5 * time.Hour, "in_progress", 7}, {150 * time.Minute, "finalizing", 10}, {time.Hour, "completed", 10}} {
			time.Sleep(want.after)
			_, b := c.object("GET", "/batches/"+id, "")
			require.Equal(t, want.status, b["status"])
			require.Equal(t, map[string]any{"total": 10.0, "completed": want.completed, "failed": 0.0}, b["request_counts"])
		}
		_, b := c.object("GET", "/batches/"+id, "")
		answers := c.results(b, "output_file_id")
		require.Len(t, answers, 10)
		require.Contains(t, answers["r3"], `"status_code":200`)
		require.Contains(t, answers["r3"], `"object":"chat.completion"`)
		require.Nil(t, b["error_file_id"])
		require.Zero(t, srv.Stats().Accepted, "the limits are not of batches")
	})
}

func TestBatchExpiresAndIsCanceledInItsMiddle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := llmtest.NewServer(t, llmtest.OpenAI(), llmtest.InMemory(),
			llmtest.WithBatches(llmtest.Batches{Duration: 10 * time.Hour, Window: 5 * time.Hour, Canceling: 10 * time.Minute}))
		c := batchClient{t, srv}
		expires, canceled := c.create(batchLines(10)...), c.create(batchLines(10)...)
		time.Sleep(3 * time.Hour)
		status, b := c.object("POST", "/batches/"+canceled+"/cancel", "")
		require.Equal(t, 200, status)
		require.Equal(t, "cancelling", b["status"])
		require.Nil(t, b["output_file_id"])
		time.Sleep(10 * time.Minute)
		_, b = c.object("GET", "/batches/"+canceled, "")
		require.Equal(t, "cancelled", b["status"])
		require.Len(t, c.results(b, "output_file_id"), 2)
		require.Contains(t, c.results(b, "error_file_id")["r9"], "batch_cancelled")
		status, _ = c.object("POST", "/batches/"+canceled+"/cancel", "")
		require.Equal(t, 200, status, "once more changes nothing")
		time.Sleep(2 * time.Hour)
		_, b = c.object("GET", "/batches/"+expires, "")
		require.Equal(t, "expired", b["status"])
		require.Len(t, c.results(b, "output_file_id"), 5)
		require.Contains(t, c.results(b, "error_file_id")["r9"], "batch_expired")
		status, _ = c.object("POST", "/batches/"+expires+"/cancel", "")
		require.Equal(t, 409, status)
	})
}

func TestBatchHasFailuresInItsErrorFile(t *testing.T) {
	srv := llmtest.NewServer(t, llmtest.OpenAI(), llmtest.WithFaultShare(0.3, llmtest.Fault{Status: 500}))
	c := batchClient{t, srv}
	_, b := c.object("GET", "/batches/"+c.create(batchLines(100)...), "")
	answers, failures := c.results(b, "output_file_id"), c.results(b, "error_file_id")
	require.Len(t, answers, 100-len(failures))
	require.InDelta(t, 30, len(failures), 20)
	for _, line := range failures {
		require.Contains(t, line, `"status_code":500`)
	}
	require.EqualValues(t, len(failures), b["request_counts"].(map[string]any)["failed"])
}

func TestBatchIsRefused(t *testing.T) {
	srv := llmtest.NewServer(t, llmtest.OpenAI(), llmtest.WithBatches(llmtest.Batches{MaxRequests: 3, MaxBytes: 1000}))
	c := batchClient{t, srv}
	status, _ := c.upload("batch", batchLines(20)...)
	require.Equal(t, 413, status)
	status, _ = c.upload("fine-tune", "{}")
	require.Equal(t, 400, status)
	status, _ = c.object("POST", "/batches", `{"input_file_id":"file-0","endpoint":"/v1/chat/completions","completion_window":"24h"}`)
	require.Equal(t, 400, status)
	status, _ = c.object("GET", "/batches/batch_0", "")
	require.Equal(t, 404, status)
	for code, lines := range map[string][]string{
		"too_many_requests":   batchLines(4),
		"duplicate_custom_id": append(batchLines(1), batchLines(1)...),
		"invalid_json_line":   {"{"},
		"invalid_url":         {strings.Replace(batchLines(1)[0], "chat/completions", "responses", 1)},
		"mismatched_model":    append(batchLines(1), strings.Replace(batchLines(2)[1], `"m"`, `"n"`, 1)),
	} {
		_, b := c.object("GET", "/batches/"+c.create(lines...), "")
		require.Equal(t, "failed", b["status"])
		require.Contains(t, fmt.Sprint(b["errors"]), code)
	}
	_, err := llmtest.Start(llmtest.OpenAI(), llmtest.WithBatches(llmtest.Batches{Duration: -1}))
	require.Error(t, err)
}

func TestBatchesAreListedByPages(t *testing.T) {
	srv := llmtest.NewServer(t, llmtest.OpenAI())
	c := batchClient{t, srv}
	var want []any
	for range 5 {
		want = append([]any{c.create(batchLines(1)...)}, want...)
	}
	var got []any
	for after := ""; ; {
		_, page := c.object("GET", "/batches?limit=2&after="+after, "")
		for _, b := range page["data"].([]any) {
			got = append(got, b.(map[string]any)["id"])
			require.NotEmpty(t, b.(map[string]any)["metadata"])
		}
		if after, _ = page["last_id"].(string); page["has_more"] != true {
			break
		}
	}
	require.Equal(t, want, got)
}

func TestBatchOfTooManyEmbeddingInputsIsNotRun(t *testing.T) {
	c := batchClient{t, llmtest.NewServer(t, llmtest.OpenAI())}
	line := func(id string, n int) string {
		return fmt.Sprintf(`{"custom_id":%q,"method":"POST","url":"/v1/embeddings","body":{"model":"m","input":["a"%s]}}`, id, strings.Repeat(`,"a"`, n-1))
	}
	_, file := c.upload("batch", line("a", 50_000), line("b", 1))
	_, made := c.object("POST", "/batches", fmt.Sprintf(`{"input_file_id":%q,"endpoint":"/v1/embeddings","completion_window":"24h"}`, file))
	require.Equal(t, "failed", made["status"])
	require.Contains(t, fmt.Sprint(made["errors"]), "more than 50000 embedding inputs")
}
