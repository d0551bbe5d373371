package llmtest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"
)

// Anthropic's message batches: platform.claude.com/docs/en/api/messages/batches and
// platform.claude.com/docs/en/build-with-claude/batch-processing. Documented there are the
// bounds of 100,000 requests and 256 MB, the form of a custom_id, that a batch which is
// being canceled ends with what it has done, and that results come in any order.

const (
	anthropicBatchRequests = 100_000
	anthropicBatchBytes    = 256 << 20
)

// batchRoute finds what serves a path of batches.
func (d anthropic) batchRoute(r *http.Request) (route, *problem) {
	rest, ok := strings.CutPrefix(r.URL.Path, "/v1/messages/batches")
	parts := strings.Split(strings.Trim(rest, "/"), "/")
	get, post := r.Method == http.MethodGet, r.Method == http.MethodPost
	switch n := len(parts); {
	case !ok:
	case rest == "" && post:
		return route{page: d.createBatch}, nil
	case rest == "" && get:
		return route{page: d.listBatches}, nil
	case n == 1 && get, n == 2 && parts[1] == "results" && get, n == 2 && parts[1] == "cancel" && post:
		return route{page: func(w http.ResponseWriter, r *http.Request) {
			d.batch(w, r, parts[0], strings.Join(parts[1:], ""))
		}}, nil
	}
	return route{}, notServed(r)
}

func (d anthropic) bad(w http.ResponseWriter, status int, format string, args ...any) {
	d.reject(w, &problem{reason: badRequest, status: status, message: fmt.Sprintf(format, args...)})
}

func (d anthropic) createBatch(w http.ResponseWriter, r *http.Request) {
	most, bound := d.config.batches.bounds(anthropicBatchRequests, anthropicBatchBytes)
	var req struct {
		Requests []struct {
			CustomID string          `json:"custom_id"`
			Params   json.RawMessage `json:"params"`
		} `json:"requests"`
	}
	var tooLarge *http.MaxBytesError
	switch err := json.NewDecoder(http.MaxBytesReader(w, r.Body, bound)).Decode(&req); {
	case errors.As(err, &tooLarge):
		d.bad(w, http.StatusRequestEntityTooLarge, "Request exceeds the maximum size")
		return
	case err != nil:
		d.bad(w, http.StatusBadRequest, "The request body is not valid JSON: %v", err)
		return
	case len(req.Requests) == 0:
		d.bad(w, http.StatusBadRequest, "requests: List should have at least 1 item")
		return
	case len(req.Requests) > most:
		d.bad(w, http.StatusBadRequest, "requests: List should have at most %d items", most)
		return
	}
	j := &batchJob{}
	seen := map[string]bool{}
	for i, l := range req.Requests {
		switch {
		case !isBatchID(l.CustomID):
			d.bad(w, http.StatusBadRequest, "requests.%d.custom_id: String should match pattern '^[a-zA-Z0-9_-]{1,64}$'", i)
			return
		case seen[l.CustomID]:
			d.bad(w, http.StatusBadRequest, "requests.%d.custom_id: is not unique", i)
			return
		}
		seen[l.CustomID] = true
		j.lines = append(j.lines, batchLine{CustomID: l.CustomID, Body: l.Params})
	}
	d.store.mu.Lock()
	defer d.store.mu.Unlock()
	d.begin(j, "msgbatch_", 24*time.Hour)
	writeJSON(w, http.StatusOK, d.batchObject(r, j))
}

func isBatchID(s string) bool {
	return s != "" && len(s) <= 64 && strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-") == ""
}

// batchObject is a batch as it stands. It wants the lock.
func (d anthropic) batchObject(r *http.Request, j *batchJob) any {
	p := d.config.batches.phase(j, time.Now())
	counts := map[string]int{"processing": len(j.lines), "succeeded": 0, "errored": 0, "canceled": 0, "expired": 0}
	object := map[string]any{
		"id": j.id, "type": "message_batch", "processing_status": "in_progress", "request_counts": counts, "ended_at": nil,
		"created_at": j.created.UTC(), "expires_at": j.expires.UTC(), "archived_at": nil, "cancel_initiated_at": nil, "results_url": nil,
	}
	if !j.canceled.IsZero() {
		object["processing_status"], object["cancel_initiated_at"] = "canceling", j.canceled.UTC()
	}
	if p.ended() {
		d.finishBatch(j, p)
		maps.Copy(counts, j.counts)
		counts["processing"] = 0
		object["processing_status"], object["ended_at"] = "ended", p.at.UTC()
		object["results_url"] = "http://" + r.Host + "/v1/messages/batches/" + j.id + "/results"
	}
	return object
}

// finishBatch writes the results once, in another order than the requests.
func (d anthropic) finishBatch(j *batchJob, p batchPhase) {
	if j.output != nil {
		return
	}
	var out bytes.Buffer
	j.counts = map[string]int{}
	for i, l := range slices.Backward(j.lines) {
		result := map[string]any{"type": "canceled"}
		switch {
		case i < p.done:
			result = d.answerLine(j, i)
		case p.status == "expired":
			result["type"] = "expired"
		}
		j.counts[result["type"].(string)]++
		data, _ := json.Marshal(map[string]any{"custom_id": l.CustomID, "result": result}) // what is in it is JSON already
		out.Write(append(data, '\n'))
	}
	j.output = &batchFile{data: out.Bytes()}
}

// answerLine answers one request of a batch.
func (d anthropic) answerLine(j *batchJob, i int) map[string]any {
	whole, p := d.answer(j, i, readMessages)
	if p != nil {
		return map[string]any{"type": "errored", "error": anthropicErrorOf(p)}
	}
	return map[string]any{"type": "succeeded", "message": whole}
}

// batch serves one batch: its results, or itself, after it was canceled if that is asked.
func (d anthropic) batch(w http.ResponseWriter, r *http.Request, id, action string) {
	d.store.mu.Lock()
	defer d.store.mu.Unlock()
	j := d.store.job(id)
	if j == nil {
		d.bad(w, http.StatusNotFound, "No batch found with id %s", id)
		return
	}
	p := d.config.batches.phase(j, time.Now())
	switch {
	case action == "cancel" && (p.ended() || d.config.batches.cancel(j)):
		d.bad(w, http.StatusBadRequest, "Batch %s has already ended", id)
		return
	case action == "results" && !p.ended():
		d.bad(w, http.StatusNotFound, "Batch %s has no results yet", id)
		return
	case action == "results":
		d.finishBatch(j, p)
		w.Header().Set("Content-Type", "application/x-jsonl")
		_, _ = w.Write(j.output.data)
		return
	}
	writeJSON(w, http.StatusOK, d.batchObject(r, j))
}

// listBatches lists batches, the latest first.
func (d anthropic) listBatches(w http.ResponseWriter, r *http.Request) {
	d.store.mu.Lock()
	defer d.store.mu.Unlock()
	page, last, more := d.store.page(r, "limit", 1000, "after_id")
	data, first := list(page, func(j *batchJob) any { return d.batchObject(r, j) })
	writeJSON(w, http.StatusOK, map[string]any{"data": data, "first_id": first, "last_id": last, "has_more": more})
}
