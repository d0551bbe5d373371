package llmtest_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/llmqueue/llmqueue/llmtest"
)

const messageBatches = "/v1/messages/batches"

// messageBatch is the body of a batch of n requests.
func messageBatch(n int) string {
	var list []string
	for i := range n {
		list = append(list, fmt.Sprintf(`{"custom_id":"r%d","params":{"model":"m","max_tokens":5,"messages":[{"role":"user","content":"question %d"}]}}`, i, i))
	}
	return `{"requests":[` + strings.Join(list, ",") + `]}`
}

func counts(processing, succeeded, errored, canceled, expired float64) map[string]any {
	return map[string]any{"processing": processing, "succeeded": succeeded, "errored": errored, "canceled": canceled, "expired": expired}
}

func TestMessageBatchEndsAndIsCanceledOrExpiresInItsMiddle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, b := range []struct {
			batches llmtest.Batches
			cancel  bool
			counts  map[string]any
			want    string
		}{
			{llmtest.Batches{Duration: 3 * time.Hour}, false, counts(0, 10, 0, 0, 0), `"type":"message"`},
			{llmtest.Batches{Duration: 10 * time.Hour, Canceling: time.Minute}, true, counts(0, 2, 0, 8, 0), `"result":{"type":"canceled"}`},
			{llmtest.Batches{Duration: 10 * time.Hour, Window: 3 * time.Hour}, false, counts(0, 2, 0, 0, 8), `"result":{"type":"expired"}`},
		} {
			srv := llmtest.NewServer(t, llmtest.Anthropic(llmtest.RPM(1)), llmtest.InMemory(), llmtest.WithBatches(b.batches))
			c := batchClient{t, srv}
			status, made := c.object("POST", messageBatches, messageBatch(10))
			require.Equal(t, 200, status, "%v", made)
			id := messageBatches + "/" + made["id"].(string)
			require.Equal(t, "in_progress", made["processing_status"])
			require.Equal(t, counts(10, 0, 0, 0, 0), made["request_counts"])
			require.Nil(t, made["results_url"])
			status, _ = c.object("GET", id+"/results", "")
			require.Equal(t, 404, status)
			time.Sleep(3 * time.Hour)
			if b.cancel {
				_, canceling := c.object("POST", id+"/cancel", "")
				require.Equal(t, "canceling", canceling["processing_status"])
				time.Sleep(time.Minute)
			}
			_, ended := c.object("GET", id, "")
			require.Equal(t, "ended", ended["processing_status"])
			require.Equal(t, b.counts, ended["request_counts"])
			require.True(t, strings.HasSuffix(ended["results_url"].(string), id+"/results"))
			_, data := c.do("GET", id+"/results", "", nil)
			require.Equal(t, 10, strings.Count(string(data), "\n"))
			require.Contains(t, string(data), b.want)
			status, _ = c.object("POST", id+"/cancel", "")
			require.Equal(t, 400, status)
			require.Zero(t, srv.Stats().Accepted, "the limits are not of batches")
			srv.Close()
		}
	})
}

func TestMessageBatchHasErrorsAmongItsResults(t *testing.T) {
	srv := llmtest.NewServer(t, llmtest.Anthropic(), llmtest.WithFaultShare(0.3, llmtest.Fault{Status: http.StatusInternalServerError}))
	c := batchClient{t, srv}
	_, b := c.object("POST", messageBatches, messageBatch(100))
	_, data := c.do("GET", messageBatches+"/"+b["id"].(string)+"/results", "", nil)
	errored := strings.Count(string(data), `"type":"errored"`)
	require.InDelta(t, 30, errored, 20)
	require.Equal(t, errored, strings.Count(string(data), `"type":"api_error"`))
	require.Equal(t, counts(0, float64(100-errored), float64(errored), 0, 0), b["request_counts"])
}

func TestMessageBatchIsRefused(t *testing.T) {
	srv := llmtest.NewServer(t, llmtest.Anthropic(), llmtest.WithBatches(llmtest.Batches{MaxRequests: 3, MaxBytes: 1000}))
	c := batchClient{t, srv}
	for body, want := range map[string]int{
		messageBatch(3): 200, messageBatch(4): 400, messageBatch(50): 413, messageBatch(0): 400, "{": 400,
		strings.ReplaceAll(messageBatch(2), "r1", "r0"): 400, strings.Replace(messageBatch(1), "r0", "r 0", 1): 400,
	} {
		status, b := c.object("POST", messageBatches, body)
		require.Equal(t, want, status, "%v", b)
	}
	_, list := c.object("GET", messageBatches+"?limit=1", "")
	require.Len(t, list["data"], 1)
	require.Equal(t, false, list["has_more"])
	status, _ := c.object("GET", messageBatches+"/msgbatch_0", "")
	require.Equal(t, 404, status)
}
