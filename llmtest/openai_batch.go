package llmtest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// OpenAI's files and batches: developers.openai.com/api/reference/resources/batches and
// github.com/openai/openai-openapi. That an input file has at most 50,000 requests and
// 200 MB is documented there; so are the states, that an expired request is an error
// batch_expired, and that results come in any order. That a canceled one is batch_cancelled is
// inferred, as are the codes of a file that is refused.

const (
	openAIBatchRequests = 50_000
	openAIBatchBytes    = 200 << 20
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
	bound := d.config.batches.MaxBytes
	if bound == 0 {
		bound = openAIBatchBytes
	}
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

// add stores a file. It wants the lock.
func (s *batchStore) add(name, purpose string, data []byte) *batchFile {
	f := &batchFile{id: fmt.Sprintf("file-%08x", len(s.files)+1), name: name, purpose: purpose, created: time.Now(), data: data}
	s.files = append(s.files, f)
	return f
}

func (f *batchFile) object() any {
	return map[string]any{"id": f.id, "object": "file", "bytes": len(f.data), "created_at": f.created.Unix(), "filename": f.name, "purpose": f.purpose, "status": "processed"}
}

// find finds a file. It wants the lock.
func (s *batchStore) find(id string) *batchFile {
	if i := slices.IndexFunc(s.files, func(f *batchFile) bool { return f.id == id }); i >= 0 {
		return s.files[i]
	}
	return nil
}

func (d openAI) file(w http.ResponseWriter, _ *http.Request, id string, content bool) {
	d.store.mu.Lock()
	defer d.store.mu.Unlock()
	f := d.store.find(id)
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
	f := d.store.find(req.InputFileID)
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
	j := &batchJob{
		id: fmt.Sprintf("batch_%08x", len(d.store.batches)+1), input: f.id, endpoint: req.Endpoint, window: req.Window,
		metadata: req.Metadata, created: time.Now(),
	}
	j.read(f.data, d.config.batches.MaxRequests)
	d.store.batches = append(d.store.batches, j)
	writeJSON(w, http.StatusOK, d.batchObject(j))
}

// read takes in the lines of a file, and what is wrong with them.
func (j *batchJob) read(data []byte, bound int) {
	if bound == 0 {
		bound = openAIBatchRequests
	}
	seen, model := map[string]bool{}, ""
	bad := func(line int, code, format string, args ...any) {
		j.invalid = append(j.invalid, batchProblem{Code: code, Message: fmt.Sprintf(format, args...), Line: line})
	}
	n := 0
	for text := range bytes.Lines(data) {
		n++
		var l batchLine
		if err := json.Unmarshal(text, &l); err != nil {
			bad(n, "invalid_json_line", "This line is not parseable as valid JSON.")
			continue
		}
		var body struct{ Model string }
		_ = json.Unmarshal(l.Body, &body)
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
	if n > bound {
		bad(0, "too_many_requests", "The input file has more than %d requests.", bound)
	}
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
	for i := len(j.lines) - 1; i >= 0; i-- { // in another order than the input
		l := &j.lines[i]
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
	l := &j.lines[i]
	request := &http.Request{Method: http.MethodPost, Header: http.Header{}}
	var read operation
	switch l.URL {
	case "/v1/chat/completions":
		read = chatStyle{}.read
	case "/v1/responses":
		read = readResponse
	default:
		read = d.embeddings("")
	}
	c, f, p := read(request, l.Body)
	if p == nil {
		c.body = hash(l.Body)
		r := d.config.plan(&c, &ticket{accepted: math.MaxInt64})
		a := answer{call: &c, number: i, began: j.created, text: r.text(), tokens: r.tokens, cut: r.cut}
		if p = r.fault.problem(false); p == nil {
			return http.StatusOK, f.whole(&a)
		}
	}
	d.complete(p)
	return p.status, openAIErrorOf(p)
}

// batch serves one batch, and cancels it before if that is asked.
func (d openAI) batch(w http.ResponseWriter, _ *http.Request, id string, cancel bool) {
	d.store.mu.Lock()
	defer d.store.mu.Unlock()
	i := slices.IndexFunc(d.store.batches, func(j *batchJob) bool { return j.id == id })
	if i < 0 {
		d.bad(w, http.StatusNotFound, "id", "No batch found with id '%s'.", id)
		return
	}
	j := d.store.batches[i]
	if cancel && j.canceled.IsZero() {
		now := time.Now()
		if p := d.config.batches.phase(j, now); p.ended() {
			d.bad(w, http.StatusConflict, "", "Cannot cancel a batch with status '%s'.", p.status)
			return
		}
		j.canceled = now
	}
	writeJSON(w, http.StatusOK, d.batchObject(j))
}

// listBatches lists batches, the latest first.
func (d openAI) listBatches(w http.ResponseWriter, r *http.Request) {
	limit, err := strconv.Atoi(r.URL.Query().Get("limit"))
	if err != nil || limit < 1 || limit > 100 {
		limit = 20
	}
	d.store.mu.Lock()
	defer d.store.mu.Unlock()
	page, last, more := d.store.page(r.URL.Query().Get("after"), limit)
	list, first := []any{}, (*string)(nil)
	for _, j := range page {
		list = append(list, d.batchObject(j))
		first = &page[0].id
	}
	writeJSON(w, http.StatusOK, map[string]any{"object": "list", "data": list, "first_id": first, "last_id": last, "has_more": more})
}
