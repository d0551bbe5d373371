package llmtest_test

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/llmqueue/llmqueue/llmtest"
)

const geminiBatches = "/v1beta/models/m:batchGenerateContent"

// geminiUpload uploads a file of n requests in the two steps of the resumable protocol.
func geminiUpload(c batchClient, lines ...string) (name string) {
	c.t.Helper()
	send := func(url string, header map[string]string, body string) (*http.Response, string) {
		req, err := http.NewRequest("POST", url, strings.NewReader(body))
		require.NoError(c.t, err)
		for k, v := range header {
			req.Header.Set(k, v)
		}
		res, err := c.srv.Client().Do(req)
		require.NoError(c.t, err)
		defer res.Body.Close()
		data, err := io.ReadAll(res.Body)
		require.NoError(c.t, err)
		require.Equal(c.t, 200, res.StatusCode, "%s", data)
		return res, string(data)
	}
	res, _ := send(c.srv.URL()+"/upload/v1beta/files", map[string]string{"X-Goog-Upload-Protocol": "resumable", "X-Goog-Upload-Command": "start"}, `{}`)
	to := res.Header.Get("X-Goog-Upload-Url")
	_, answer := send(to, map[string]string{"X-Goog-Upload-Command": "upload, finalize", "X-Goog-Upload-Offset": "0"}, strings.Join(lines, "\n")+"\n")
	_, rest, _ := strings.Cut(answer, `"name":"`)
	name, _, _ = strings.Cut(rest, `"`)
	return name
}

func geminiLines(n int) (lines []string) {
	for i := range n {
		lines = append(lines, fmt.Sprintf(`{"key":"r%d","request":{"contents":[{"parts":[{"text":"question %d"}]}]}}`, i, i))
	}
	return lines
}

func TestGeminiBatchEndsAndIsCanceledOrExpiresInItsMiddle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, b := range []struct {
			batches llmtest.Batches
			cancel  bool
			hours   time.Duration
			state   string
			stats   map[string]any
		}{
			{llmtest.Batches{Duration: 3 * time.Hour}, false, 3, "SUCCEEDED", map[string]any{"requestCount": "10", "successfulRequestCount": "10"}},
			{llmtest.Batches{Duration: 10 * time.Hour, Canceling: time.Minute}, true, 3, "CANCELLED", map[string]any{"requestCount": "10", "successfulRequestCount": "2", "pendingRequestCount": "8"}},
			{llmtest.Batches{Duration: 160 * time.Hour}, false, 47, "RUNNING", map[string]any{"requestCount": "10", "successfulRequestCount": "2", "pendingRequestCount": "8"}},
			{llmtest.Batches{Duration: 160 * time.Hour}, false, 48, "EXPIRED", map[string]any{"requestCount": "10", "successfulRequestCount": "2", "pendingRequestCount": "8"}},
		} {
			srv := llmtest.NewServer(t, llmtest.Gemini(llmtest.RPM(1)), llmtest.InMemory(), llmtest.WithBatches(b.batches))
			c := batchClient{t, srv}
			file := geminiUpload(c, geminiLines(10)...)
			status, made := c.object("POST", geminiBatches, fmt.Sprintf(`{"batch":{"display_name":"mine","input_config":{"file_name":%q}}}`, file))
			require.Equal(t, 200, status, "%v", made)
			id := "/v1beta/" + made["name"].(string)
			_, at := c.object("GET", id, "")
			require.Equal(t, "BATCH_STATE_PENDING", at["metadata"].(map[string]any)["state"])
			require.Nil(t, at["done"])
			time.Sleep(b.hours * time.Hour)
			if b.cancel {
				status, _ = c.object("POST", id+":cancel", "")
				require.Equal(t, 200, status)
				_, at = c.object("GET", id, "")
				require.Equal(t, "BATCH_STATE_RUNNING", at["metadata"].(map[string]any)["state"])
				time.Sleep(time.Minute)
			}
			_, at = c.object("GET", id, "")
			metadata := at["metadata"].(map[string]any)
			require.Equal(t, "BATCH_STATE_"+b.state, metadata["state"])
			require.Equal(t, "mine", metadata["displayName"])
			require.Equal(t, b.stats, metadata["batchStats"])
			if b.state != "SUCCEEDED" {
				require.Nil(t, at["response"], "no results: %v", at)
				continue
			}
			results := at["response"].(map[string]any)["responsesFile"].(string)
			for _, path := range []string{"/v1beta/", "/download/v1beta/"} {
				status, data := c.do("GET", path+results+":download?alt=media", "", nil)
				require.Equal(t, 200, status)
				require.Equal(t, 10, strings.Count(string(data), `"candidates"`))
				require.True(t, strings.HasPrefix(string(data), `{"key":"r9"`), "in another order: %.60s", data)
			}
			require.Zero(t, srv.Stats().Accepted, "batches count for no limit")
			status, _ = c.object("POST", id+":cancel", "")
			require.Equal(t, 400, status, "it has ended")
		}
	})
}

func TestGeminiBatchOfRequestsInTheBodyFailsInParts(t *testing.T) {
	srv := llmtest.NewServer(t, llmtest.Gemini(), llmtest.WithFaultShare(0.3, llmtest.Fault{Status: 503}))
	c := batchClient{t, srv}
	var list []string
	for i := range 30 {
		list = append(list, fmt.Sprintf(`{"request":{"contents":[{"parts":[{"text":"question %d"}]}]},"metadata":{"key":"r%d"}}`, i, i))
	}
	list[4] = `{"request":{},"metadata":{"key":"r4"}}`
	_, made := c.object("POST", geminiBatches, `{"batch":{"displayName":"mine","inputConfig":{"requests":{"requests":[`+strings.Join(list, ",")+`]}}}}`)
	require.Equal(t, true, made["done"])
	results := made["response"].(map[string]any)["inlinedResponses"].(map[string]any)["inlinedResponses"].([]any)
	codes := map[any]int{}
	for i, r := range results {
		r := r.(map[string]any)
		require.Equal(t, map[string]any{"key": fmt.Sprint("r", i)}, r["metadata"])
		if e, ok := r["error"].(map[string]any); ok {
			require.Nil(t, r["response"])
			codes[e["code"]]++
		} else {
			require.NotNil(t, r["response"])
		}
	}
	require.Equal(t, 1, codes[float64(3)], "INVALID_ARGUMENT: %v", codes)
	require.Positive(t, codes[float64(14)], "UNAVAILABLE: %v", codes)
}

func TestGeminiBatchesAreRefusedAndListed(t *testing.T) {
	srv := llmtest.NewServer(t, llmtest.Gemini(), llmtest.WithBatches(llmtest.Batches{MaxRequests: 3}))
	c := batchClient{t, srv}
	one := `{"request":{"contents":[{"parts":[{"text":"a"}]}]}}`
	for name, b := range map[string]struct{ batch, want string }{
		"no name":      {`{"inputConfig":{"requests":{"requests":[` + one + `]}}}`, "display_name"},
		"no input":     {`{"displayName":"a"}`, "from 1 to"},
		"no such file": {`{"displayName":"a","inputConfig":{"fileName":"files/x"}}`, "files/x was not found"},
		"too many":     {`{"displayName":"a","inputConfig":{"requests":{"requests":[` + strings.Repeat(one+",", 3) + one + `]}}}`, "4 requests"},
	} {
		status, body := c.do("POST", geminiBatches, "application/json", strings.NewReader(`{"batch":`+b.batch+`}`))
		require.Equal(t, 400, status, name)
		require.Contains(t, string(body), b.want, name)
	}
	bad := geminiUpload(c, `{"key":"a"}`)
	_, made := c.object("POST", geminiBatches, fmt.Sprintf(`{"batch":{"displayName":"a","inputConfig":{"fileName":%q}}}`, bad))
	require.Contains(t, fmt.Sprint(made["error"]), "Line 1")
	require.Contains(t, fmt.Sprint(made["metadata"]), "BATCH_STATE_FAILED")
	for range 4 {
		c.object("POST", geminiBatches, `{"batch":{"displayName":"b","inputConfig":{"requests":{"requests":[`+one+`]}}}}`)
	}
	var names []any
	for token, pages := "", 0; pages == 0 || token != ""; pages++ {
		_, page := c.object("GET", "/v1beta/batches?pageSize=2&pageToken="+token, "")
		for _, o := range page["operations"].([]any) {
			names = append(names, o.(map[string]any)["name"])
		}
		token, _ = page["nextPageToken"].(string)
	}
	require.Equal(t, []any{"batches/00000005", "batches/00000004", "batches/00000003", "batches/00000002", "batches/00000001"}, names)
	status, _ := c.object("GET", "/v1beta/batches/00000009", "")
	require.Equal(t, 404, status)
}
