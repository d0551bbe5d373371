package llmtest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"
)

// Gemini's batches and the files that they need: ai.google.dev/api/batch-api,
// ai.google.dev/gemini-api/docs/batch-api, ai.google.dev/api/files, and batches.go and files.go
// of github.com/googleapis/go-genai. Documented there are the bounds of 2 GB for a file and
// 20 MB for requests in the body, the states, that a batch expires after 48 hours and has no
// results then, and that the result of one request is a response or an error. That a batch
// which is canceled has no results either is inferred, as is that a batch with requests that
// failed has the state of success, and the order of the results.

const (
	geminiBatchBytes  = 2 << 30
	geminiInlineBytes = 20 << 20
	geminiWindow      = 48 * time.Hour
)

// batchRoute finds what serves a path of files and batches; false if it is none.
func (d gemini) batchRoute(r *http.Request) (route, bool) {
	get, post := r.Method == http.MethodGet, r.Method == http.MethodPost
	path := r.URL.Path
	if path == "/upload/v1beta/files" && post {
		return route{page: d.upload}, true
	}
	path = strings.TrimPrefix(path, "/download")
	path, ok := strings.CutPrefix(path, "/v1beta/")
	name, op, _ := strings.Cut(path, ":")
	kind, id, _ := strings.Cut(name, "/")
	switch {
	case !ok:
	case kind == "models" && op == "batchGenerateContent" && post:
		return route{page: func(w http.ResponseWriter, r *http.Request) { d.createBatch(w, r, id) }}, true
	case kind == "files" && (op == "download" || op == "") && get:
		return route{page: func(w http.ResponseWriter, _ *http.Request) { d.file(w, id, op == "download") }}, true
	case path == "batches" && get:
		return route{page: d.listBatches}, true
	case kind == "batches" && op == "" && get, kind == "batches" && op == "cancel" && post:
		return route{page: func(w http.ResponseWriter, _ *http.Request) { d.batch(w, id, op == "cancel") }}, true
	}
	return route{}, false
}

func (d gemini) bad(w http.ResponseWriter, status int, format string, args ...any) {
	d.reject(w, &problem{reason: badRequest, status: status, message: fmt.Sprintf(format, args...)})
}

// upload takes a file in two steps, as the resumable protocol has it: the first names it and
// is answered with the address for the second, which brings it whole.
func (d gemini) upload(w http.ResponseWriter, r *http.Request) {
	command := r.Header.Get("X-Goog-Upload-Command")
	if r.Header.Get("X-Goog-Upload-Protocol") == "resumable" && command == "start" {
		w.Header().Set("X-Goog-Upload-URL", "http://"+r.Host+"/upload/v1beta/files?upload_id=1&upload_protocol=resumable")
		w.Header().Set("X-Goog-Upload-Status", "active")
		writeJSON(w, http.StatusOK, struct{}{})
		return
	}
	if r.URL.Query().Get("upload_id") == "" || command != "upload, finalize" || r.Header.Get("X-Goog-Upload-Offset") != "0" {
		d.bad(w, http.StatusBadRequest, "Only a resumable upload of one part is simulated: start, then \"upload, finalize\" at offset 0.")
		return
	}
	_, bound := d.config.batches.bounds(0, geminiBatchBytes)
	data, err := io.ReadAll(http.MaxBytesReader(w, r.Body, bound))
	if err != nil {
		d.bad(w, http.StatusBadRequest, "The file could not be read, it may have %d bytes: %v", bound, err)
		return
	}
	d.store.mu.Lock()
	defer d.store.mu.Unlock()
	w.Header().Set("X-Goog-Upload-Status", "final")
	writeJSON(w, http.StatusOK, map[string]any{"file": geminiFile(d.store.add("", "", data))})
}

func geminiFile(f *batchFile) any {
	return map[string]any{
		"name": "files/" + f.id, "mimeType": "application/jsonl", "sizeBytes": fmt.Sprint(len(f.data)), "state": "ACTIVE",
		"createTime": f.created.UTC(), "expirationTime": f.created.Add(geminiWindow).UTC(),
	}
}

func (d gemini) file(w http.ResponseWriter, id string, content bool) {
	d.store.mu.Lock()
	defer d.store.mu.Unlock()
	f := d.store.file(id)
	switch {
	case f == nil: // Gemini answers so for a file that is not there
		d.bad(w, http.StatusForbidden, "You do not have permission to access the File %s or it may not exist.", id)
	case content:
		w.Header().Set("Content-Type", "application/octet-stream")
		_, _ = w.Write(f.data)
	default:
		writeJSON(w, http.StatusOK, geminiFile(f))
	}
}

// inlineRequest is a request of a batch in the body.
type inlineRequest struct {
	Request  json.RawMessage `json:"request"`
	Metadata json.RawMessage `json:"metadata,omitempty"`
}

// batchInput is where the requests of a batch are. Both spellings are read, as they are of any
// request.
type batchInput struct {
	Requests struct {
		Requests []inlineRequest `json:"requests"`
	} `json:"requests"`
	File  string `json:"fileName"`
	File2 string `json:"file_name"`
}

func (d gemini) createBatch(w http.ResponseWriter, r *http.Request, model string) {
	var req struct {
		Batch struct {
			Name   string      `json:"displayName"`
			Name2  string      `json:"display_name"`
			Input  *batchInput `json:"inputConfig"`
			Input2 *batchInput `json:"input_config"`
		} `json:"batch"`
	}
	var tooLarge *http.MaxBytesError
	switch err := json.NewDecoder(http.MaxBytesReader(w, r.Body, geminiInlineBytes)).Decode(&req); {
	case errors.As(err, &tooLarge):
		d.bad(w, http.StatusBadRequest, "Request payload size exceeds the limit: %d bytes.", geminiInlineBytes)
		return
	case err != nil:
		d.bad(w, http.StatusBadRequest, "Invalid JSON payload received. %v", err)
		return
	}
	in := req.Batch.Input
	if in == nil {
		in = req.Batch.Input2
	}
	j := &batchJob{model: model, name: req.Batch.Name + req.Batch.Name2}
	d.store.mu.Lock()
	defer d.store.mu.Unlock()
	switch {
	case j.name == "":
		d.bad(w, http.StatusBadRequest, "* BatchGenerateContentRequest.batch.display_name: is required\n")
		return
	case in != nil && in.File+in.File2 != "":
		j.input = in.File + in.File2
		f := d.store.file(strings.TrimPrefix(j.input, "files/"))
		if f == nil {
			d.bad(w, http.StatusBadRequest, "The input file %s was not found.", j.input)
			return
		}
		j.readKeys(f.data)
	case in != nil:
		for _, q := range in.Requests.Requests {
			j.lines = append(j.lines, batchLine{Body: q.Request, Metadata: q.Metadata})
		}
	}
	if most, _ := d.config.batches.bounds(len(j.lines), 0); len(j.lines) > most || len(j.lines) == 0 && len(j.invalid) == 0 {
		d.bad(w, http.StatusBadRequest, "The batch has %d requests: it may have from 1 to %d.", len(j.lines), most)
		return
	}
	d.begin(j, "", geminiWindow)
	writeJSON(w, http.StatusOK, d.operation(j))
}

// readKeys takes in the lines of a file. One that cannot be read fails the batch.
func (j *batchJob) readKeys(data []byte) {
	n := 0
	for text := range bytes.Lines(data) {
		n++
		var l struct {
			Key     string          `json:"key"`
			Request json.RawMessage `json:"request"`
		}
		if json.Unmarshal(text, &l) != nil || l.Request == nil {
			j.invalid = append(j.invalid, batchProblem{Message: fmt.Sprintf("Line %d of the input file is not a request.", n)})
		}
		j.lines = append(j.lines, batchLine{CustomID: l.Key, Body: l.Request})
	}
}

// geminiStates are the states by OpenAI's. The REST API says BATCH_STATE_ where the SDKs say
// JOB_STATE_.
var geminiStates = map[string]string{
	"validating": "PENDING", "in_progress": "RUNNING", "finalizing": "RUNNING", "cancelling": "RUNNING",
	"completed": "SUCCEEDED", "failed": "FAILED", "cancelled": "CANCELLED", "expired": "EXPIRED",
}

// operation is a batch as it stands. It wants the lock.
func (d gemini) operation(j *batchJob) any {
	const types = "type.googleapis.com/google.ai.generativelanguage.v1main."
	p := d.config.batches.phase(j, time.Now())
	metadata := map[string]any{
		"@type": types + "GenerateContentBatch", "model": "models/" + j.model, "displayName": j.name, "name": "batches/" + j.id,
		"createTime": j.created.UTC(), "updateTime": p.at.UTC(), "state": "BATCH_STATE_" + geminiStates[p.status],
	}
	operation := map[string]any{"name": "batches/" + j.id, "metadata": metadata}
	failed := 0
	if p.ended() {
		metadata["endTime"], operation["done"] = p.at.UTC(), true
	}
	switch p.status {
	case "completed":
		output := d.finishBatch(j)
		failed = j.counts["failed"]
		metadata["output"] = output
		operation["response"] = map[string]any{"@type": types + "GenerateContentBatchOutput"}
		maps.Copy(operation["response"].(map[string]any), output)
	case "failed":
		operation["error"] = rpcStatus{rpcCode(http.StatusBadRequest), j.invalid[0].Message}
	case "cancelled":
		operation["error"] = rpcStatus{1, "The operation was cancelled."}
	case "expired":
		operation["error"] = rpcStatus{rpcCode(http.StatusGatewayTimeout), "The batch expired."}
	}
	stats := map[string]string{"requestCount": fmt.Sprint(len(j.lines))} // numbers of 64 bits are texts
	for name, n := range map[string]int{"successfulRequestCount": p.done - failed, "failedRequestCount": failed, "pendingRequestCount": len(j.lines) - p.done} {
		if n > 0 {
			stats[name] = fmt.Sprint(n)
		}
	}
	metadata["batchStats"] = stats
	return operation
}

// rpcStatus is google.rpc.Status, whose codes are not those of HTTP.
type rpcStatus struct {
	Code    int    `json:"code"`
	Message string `json:"message"`
}

// rpcCode is the code of google.rpc for a status.
func rpcCode(status int) int {
	codes := map[string]int{
		"INVALID_ARGUMENT": 3, "DEADLINE_EXCEEDED": 4, "NOT_FOUND": 5, "PERMISSION_DENIED": 7,
		"RESOURCE_EXHAUSTED": 8, "INTERNAL": 13, "UNAVAILABLE": 14, "UNAUTHENTICATED": 16,
	}
	return codes[geminiStatus(status)]
}

// finishBatch writes the results once: into a file where the requests came in one, in another
// order than they, and else into the batch, in their order.
func (d gemini) finishBatch(j *batchJob) map[string]any {
	if j.output == nil {
		var out bytes.Buffer
		inline := make([]any, len(j.lines))
		j.counts = map[string]int{}
		for i, l := range slices.Backward(j.lines) {
			result := map[string]any{}
			whole, p := d.answer(j, i, readContent(j.model, false))
			if p != nil {
				j.counts["failed"]++
				result["error"] = rpcStatus{rpcCode(p.status), geminiErrorOf(p).Error.Message}
			} else {
				result["response"] = whole
			}
			if j.input == "" {
				if l.Metadata != nil {
					result["metadata"] = l.Metadata
				}
				inline[i] = result
				continue
			}
			result["key"] = l.CustomID
			data, _ := json.Marshal(result) // what is in it is JSON already
			out.Write(append(data, '\n'))
		}
		if j.input != "" {
			j.output = d.store.add("", "", out.Bytes())
			j.output.id = "batch-" + j.id
		} else {
			data, _ := json.Marshal(inline)
			j.output = &batchFile{data: data}
		}
	}
	if j.input != "" {
		return map[string]any{"responsesFile": "files/" + j.output.id}
	}
	return map[string]any{"inlinedResponses": map[string]any{"inlinedResponses": json.RawMessage(j.output.data)}}
}

// batch serves one batch, or cancels it.
func (d gemini) batch(w http.ResponseWriter, id string, cancel bool) {
	d.store.mu.Lock()
	defer d.store.mu.Unlock()
	j := d.store.job(id)
	switch {
	case j == nil:
		d.bad(w, http.StatusNotFound, "Requested entity was not found: batches/%s", id)
	case cancel && d.config.batches.cancel(j):
		d.bad(w, http.StatusBadRequest, "The batch batches/%s has ended.", id)
	case cancel:
		writeJSON(w, http.StatusOK, struct{}{})
	default:
		writeJSON(w, http.StatusOK, d.operation(j))
	}
}

// listBatches lists batches, the latest first.
func (d gemini) listBatches(w http.ResponseWriter, r *http.Request) {
	d.store.mu.Lock()
	defer d.store.mu.Unlock()
	page, last, more := d.store.page(r, "pageSize", 1000, "pageToken")
	operations, _ := list(page, d.operation)
	answer := map[string]any{"operations": operations}
	if more {
		answer["nextPageToken"] = *last
	}
	writeJSON(w, http.StatusOK, answer)
}
