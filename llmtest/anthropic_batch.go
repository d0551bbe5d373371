package llmtest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"net/http"
	"slices"
	"strconv"
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
	b := d.config.batches
	bound, most := b.MaxBytes, b.MaxRequests
	if bound == 0 {
		bound = anthropicBatchBytes
	}
	if most == 0 {
		most = anthropicBatchRequests
	}
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
	j := &batchJob{created: time.Now()}
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
	j.id = fmt.Sprintf("msgbatch_%08x", len(d.store.batches)+1)
	d.store.batches = append(d.store.batches, j)
	writeJSON(w, http.StatusOK, d.batchObject(r, j))
}

func isBatchID(s string) bool {
	return s != "" && len(s) <= 64 && strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-") == ""
}

// batchObject is a batch as it stands. It wants the lock.
func (d anthropic) batchObject(r *http.Request, j *batchJob) any {
	p := d.config.batches.phase(j, time.Now())
	window := d.config.batches.Window
	if window == 0 {
		window = 24 * time.Hour
	}
	counts := map[string]int{"processing": len(j.lines), "succeeded": 0, "errored": 0, "canceled": 0, "expired": 0}
	object := map[string]any{
		"id": j.id, "type": "message_batch", "processing_status": "in_progress", "request_counts": counts, "ended_at": nil,
		"created_at": j.created.UTC(), "expires_at": j.created.Add(window).UTC(), "archived_at": nil, "cancel_initiated_at": nil, "results_url": nil,
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
	body := j.lines[i].Body
	c, f, p := readMessages(nil, body)
	if p == nil {
		c.body = hash(body)
		r := d.config.plan(&c, &ticket{accepted: math.MaxInt64})
		if p = r.fault.problem(false); p == nil {
			return map[string]any{"type": "succeeded", "message": f.whole(&answer{call: &c, number: i, began: j.created, text: r.text(), tokens: r.tokens, cut: r.cut})}
		}
	}
	d.complete(p)
	return map[string]any{"type": "errored", "error": anthropicErrorOf(p)}
}

// batch serves one batch: its results, or itself, after it was canceled if that is asked.
func (d anthropic) batch(w http.ResponseWriter, r *http.Request, id, action string) {
	d.store.mu.Lock()
	defer d.store.mu.Unlock()
	i := slices.IndexFunc(d.store.batches, func(j *batchJob) bool { return j.id == id })
	if i < 0 {
		d.bad(w, http.StatusNotFound, "No batch found with id %s", id)
		return
	}
	j := d.store.batches[i]
	switch p := d.config.batches.phase(j, time.Now()); {
	case action == "cancel" && p.ended():
		d.bad(w, http.StatusBadRequest, "Batch %s has already ended", id)
		return
	case action == "cancel" && j.canceled.IsZero():
		j.canceled = time.Now()
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
	limit, err := strconv.Atoi(r.URL.Query().Get("limit"))
	if err != nil || limit < 1 || limit > 1000 {
		limit = 20
	}
	d.store.mu.Lock()
	defer d.store.mu.Unlock()
	page, last, more := d.store.page(r.URL.Query().Get("after_id"), limit)
	list, first := []any{}, (*string)(nil)
	for _, j := range page {
		list = append(list, d.batchObject(r, j))
		first = &page[0].id
	}
	writeJSON(w, http.StatusOK, map[string]any{"data": list, "first_id": first, "last_id": last, "has_more": more})
}
