package llmtest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"
)

// OpenAI's files and batches: developers.openai.com/api/reference/resources/batches and
// github.com/openai/openai-openapi. That an input file has at most 50,000 requests and
// 200 MB is documented there, and that those of embeddings have at most 50,000 inputs in all; so are the states, that an expired request is an error
// batch_expired, and that results come in any order. That a canceled one is batch_cancelled is
// inferred, as are the codes of a file that is refused.

const (
	openAIBatchRequests = 50_000
	openAIBatchBytes    = 200 << 20
	openAIBatchInputs   = 50_000
)

// batchRoute finds what serves a path of files and batches.
func (d openAI) batchRoute(r *http.Request) (route, *problem) {
	parts := strings.Split(strings.Trim(strings.TrimPrefix(r.URL.Path, "/v1"), "/"), "/")
	get, post := r.Method == http.MethodGet, r.Method == http.MethodPost
	switch kind, n := parts[0], len(parts); {
	case kind == "files" && n == 1 && post:
		return route{page: d.upload}, nil
	case kind == "files" && n == 2 && get, kind == "files" && n == 3 && parts[2] == "content" && get:
		return route{page: func(w http.ResponseWriter, r *http.Request) { d.file(w, r, parts[1], n == 3) }}, nil
	case kind == "batches" && n == 1 && post:
		return route{page: d.createBatch}, nil
	case kind == "batches" && n == 1 && get:
		return route{page: d.listBatches}, nil
	case kind == "batches" && n == 2 && get:
		return route{page: func(w http.ResponseWriter, r *http.Request) { d.batch(w, r, parts[1], false) }}, nil
	case kind == "batches" && n == 3 && parts[2] == "cancel" && post:
		return route{page: func(w http.ResponseWriter, r *http.Request) { d.batch(w, r, parts[1], true) }}, nil
	}
	return route{}, notServed(r)
}

// bad refuses a request for a file or a batch.
func (d openAI) bad(w http.ResponseWriter, status int, param, format string, args ...any) {
	d.reject(w, &problem{reason: badRequest, status: status, param: param, message: fmt.Sprintf(format, args...)})
}

func (d openAI) upload(w http.ResponseWriter, r *http.Request) {
	_, bound := d.config.batches.bounds(openAIBatchRequests, openAIBatchBytes)
	r.Body = http.MaxBytesReader(w, r.Body, bound+1<<20)
	in, head, err := r.FormFile("file")
	if err != nil {
		d.bad(w, http.StatusBadRequest, "file", "The file could not be read: %v", err)
		return
	}
	defer in.Close()
	data, err := io.ReadAll(in)
	switch purpose := r.FormValue("purpose"); {
	case err != nil:
		d.bad(w, http.StatusBadRequest, "file", "The file could not be read: %v", err)
	case purpose != "batch":
		d.bad(w, http.StatusBadRequest, "purpose", "'%s' is not one of ['batch'] - 'purpose'", purpose)
	case int64(len(data)) > bound:
		d.bad(w, http.StatusRequestEntityTooLarge, "file", "The file is larger than %d bytes.", bound)
	default:
		d.store.mu.Lock()
		defer d.store.mu.Unlock()
		writeJSON(w, http.StatusOK, d.store.add(head.Filename, "batch", data).object())
	}
}

func (f *batchFile) object() any {
	return map[string]any{"id": f.id, "object": "file", "bytes": len(f.data), "created_at": f.created.Unix(), "filename": f.name, "purpose": f.purpose, "status": "processed"}
}

func (d openAI) file(w http.ResponseWriter, _ *http.Request, id string, content bool) {
	d.store.mu.Lock()
	defer d.store.mu.Unlock()
	f := d.store.file(id)
	switch {
	case f == nil:
		d.bad(w, http.StatusNotFound, "id", "No such File object: %s", id)
	case content:
		w.Header().Set("Content-Type", "application/octet-stream")
		_, _ = w.Write(f.data)
	default:
		writeJSON(w, http.StatusOK, f.object())
	}
}

func (d openAI) createBatch(w http.ResponseWriter, r *http.Request) {
	var req struct {
		InputFileID string            `json:"input_file_id"`
		Endpoint    string            `json:"endpoint"`
		Window      string            `json:"completion_window"`
		Metadata    map[string]string `json:"metadata"`
	}
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBody)).Decode(&req); err != nil {
		d.reject(w, unreadable(err))
		return
	}
	d.store.mu.Lock()
	defer d.store.mu.Unlock()
	f := d.store.file(req.InputFileID)
	switch {
	case f == nil:
		d.bad(w, http.StatusBadRequest, "input_file_id", "Invalid 'input_file_id': no such file.")
		return
	case req.Window != "24h":
		d.bad(w, http.StatusBadRequest, "completion_window", "Invalid 'completion_window': supported values are: '24h'.")
		return
	case !slices.Contains([]string{"/v1/chat/completions", "/v1/responses", "/v1/embeddings"}, req.Endpoint):
		d.bad(w, http.StatusBadRequest, "endpoint", "Invalid 'endpoint': '%s'.", req.Endpoint)
		return
	}
	j := &batchJob{input: f.id, endpoint: req.Endpoint, window: req.Window, metadata: req.Metadata}
	bound, _ := d.config.batches.bounds(openAIBatchRequests, openAIBatchBytes)
	j.read(f.data, bound)
	d.begin(j, "batch_", 24*time.Hour)
	writeJSON(w, http.StatusOK, d.batchObject(j))
}

// read takes in the lines of a file, and what is wrong with them.
func (j *batchJob) read(data []byte, bound int) {
	seen, model := map[string]bool{}, ""
	bad := func(line int, code, format string, args ...any) {
		j.invalid = append(j.invalid, batchProblem{Code: code, Message: fmt.Sprintf(format, args...), Line: line})
	}
	n, inputs := 0, 0
	for text := range bytes.Lines(data) {
		n++
		var l batchLine
		if err := json.Unmarshal(text, &l); err != nil {
			bad(n, "invalid_json_line", "This line is not parseable as valid JSON.")
			continue
		}
		var body struct {
			Model string
			Input json.RawMessage
		}
		_ = json.Unmarshal(l.Body, &body)
		inputs += inputsOf(body.Input)
		if model == "" {
			model = body.Model
		}
		switch {
		case l.CustomID == "":
			bad(n, "missing_required_parameter", "Missing required parameter: 'custom_id'.")
		case seen[l.CustomID]:
			bad(n, "duplicate_custom_id", "The custom_id '%s' appears more than once.", l.CustomID)
		case l.Method != http.MethodPost || l.URL != j.endpoint:
			bad(n, "invalid_url", "The URL provided for this request does not match the endpoint of the batch.")
		case body.Model != model:
			bad(n, "mismatched_model", "The provided model name doesn't match the other requests: a file has one model.")
		}
		seen[l.CustomID] = true
		j.lines = append(j.lines, l)
	}
	if n == 0 {
		bad(0, "empty_file", "The input file is empty.")
	}
	if j.endpoint == "/v1/embeddings" && inputs > openAIBatchInputs {
		bad(0, "too_many_inputs", "The input file has more than %d embedding inputs.", openAIBatchInputs)
	}
	if n > bound {
		bad(0, "too_many_requests", "The input file has more than %d requests.", bound)
	}
}

// inputsOf is how many inputs an input is: a list of numbers is one, in tokens.
func inputsOf(raw json.RawMessage) int {
	var list []json.RawMessage
	var tokens []int64
	if json.Unmarshal(raw, &list) != nil || json.Unmarshal(raw, &tokens) == nil {
		return 1
	}
	return len(list)
}

// batchObject is a batch as it stands. It wants the lock.
func (d openAI) batchObject(j *batchJob) any {
	p := d.config.batches.phase(j, time.Now())
	object := map[string]any{
		"id": j.id, "object": "batch", "endpoint": j.endpoint, "errors": nil, "input_file_id": j.input, "completion_window": j.window,
		"status": p.status, "created_at": j.created.Unix(), "metadata": j.metadata, "output_file_id": nil, "error_file_id": nil,
	}
	failed := 0
	if p.ended() {
		object[p.status+"_at"] = p.at.Unix()
		if p.status == "failed" {
			object["errors"] = map[string]any{"object": "list", "data": j.invalid}
		} else {
			failed = d.finishBatch(j, p)
			if j.output != nil {
				object["output_file_id"] = j.output.id
			}
			if j.errors != nil {
				object["error_file_id"] = j.errors.id
			}
		}
	}
	object["request_counts"] = map[string]int{"total": len(j.lines), "completed": p.done - failed, "failed": failed}
	return object
}

// finishBatch writes the files of results once, and counts the requests that failed.
func (d openAI) finishBatch(j *batchJob, p batchPhase) (failed int) {
	var output, errors bytes.Buffer
	for i, l := range slices.Backward(j.lines) { // in another order than the input
		line := map[string]any{"id": fmt.Sprintf("batch_req_%s_%d", j.id, i), "custom_id": l.CustomID, "response": nil, "error": nil}
		out := &output
		switch {
		case i < p.done:
			status, body := d.answerLine(j, i)
			line["response"] = map[string]any{"status_code": status, "request_id": fmt.Sprintf("req_%s_%d", j.id, i), "body": body}
			if status != http.StatusOK {
				out = &errors
				failed++
			}
		case p.status == "expired":
			out, line["error"] = &errors, map[string]string{"code": "batch_expired", "message": "This request could not be executed before the completion window expired."}
		default:
			out, line["error"] = &errors, map[string]string{"code": "batch_cancelled", "message": "This request was interrupted because the batch was cancelled."}
		}
		data, _ := json.Marshal(line) // what is in it is JSON already
		out.Write(append(data, '\n'))
	}
	if j.output == nil && output.Len() > 0 {
		j.output = d.store.add(j.id+"_output.jsonl", "batch_output", output.Bytes())
	}
	if j.errors == nil && errors.Len() > 0 {
		j.errors = d.store.add(j.id+"_error.jsonl", "batch_output", errors.Bytes())
	}
	return failed
}

// answerLine answers one request of a batch.
func (d openAI) answerLine(j *batchJob, i int) (status int, body any) {
	read := d.embeddings("")
	switch j.lines[i].URL {
	case "/v1/chat/completions":
		read = chatStyle{}.read
	case "/v1/responses":
		read = readResponse
	}
	whole, p := d.answer(j, i, read)
	if p != nil {
		return p.status, openAIErrorOf(p)
	}
	return http.StatusOK, whole
}

// batch serves one batch, and cancels it before if that is asked.
func (d openAI) batch(w http.ResponseWriter, _ *http.Request, id string, cancel bool) {
	d.store.mu.Lock()
	defer d.store.mu.Unlock()
	j := d.store.job(id)
	if j == nil {
		d.bad(w, http.StatusNotFound, "id", "No batch found with id '%s'.", id)
		return
	}
	if cancel && d.config.batches.cancel(j) {
		d.bad(w, http.StatusConflict, "", "Cannot cancel a batch with status '%s'.", d.config.batches.phase(j, time.Now()).status)
		return
	}
	writeJSON(w, http.StatusOK, d.batchObject(j))
}

// listBatches lists batches, the latest first.
func (d openAI) listBatches(w http.ResponseWriter, r *http.Request) {
	d.store.mu.Lock()
	defer d.store.mu.Unlock()
	page, last, more := d.store.page(r, "limit", 100, "after")
	data, first := list(page, d.batchObject)
	writeJSON(w, http.StatusOK, map[string]any{"object": "list", "data": data, "first_id": first, "last_id": last, "has_more": more})
}
