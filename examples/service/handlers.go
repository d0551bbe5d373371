package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"strconv"
	"time"

	"github.com/llmqueue/llmqueue"
	"github.com/llmqueue/llmqueue/llmhttp"
)

// The models, as the provider calls them.
const (
	large = "gpt-4.1"
	small = "gpt-4.1-mini"
)

// Question is what clients send. Its tags are checked before it is accepted.
type Question struct {
	Prompt string `json:"prompt" validate:"required,max=20000"`
	Stream bool   `json:"-"`
}

// maxOutput bounds each answer, in tokens.
const maxOutput = 500

// EstimateUsage says what the queue reserves until the answer tells what it used.
func (q Question) EstimateUsage() llmqueue.Usage {
	return llmqueue.Usage{InputTokens: llmqueue.EstimateTokens(q.Prompt), OutputTokens: maxOutput}
}

// Answer is what clients get.
type Answer struct {
	Text  string `json:"text"`
	Model string `json:"model"` // that answered: the other one, perhaps
}

// handler is what clients see.
type handler struct {
	manager *llmqueue.Manager[Question, Answer]
}

func newHandler(manager *llmqueue.Manager[Question, Answer]) http.Handler {
	h := handler{manager}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /ask", h.ask)
	mux.HandleFunc("POST /ask/stream", h.stream)
	mux.HandleFunc("POST /jobs", h.submit)
	mux.HandleFunc("GET /jobs/{id}", h.job)
	mux.HandleFunc("DELETE /jobs/{id}", h.cancel)
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	return mux
}

// request reads what a client asks, and for whom.
func request(w http.ResponseWriter, r *http.Request) (llmqueue.Request[Question], error) {
	req := llmqueue.NewRequest(large, Question{})
	req.Tenant = r.Header.Get("X-Tenant") // tenants that wait have equal shares
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 1<<20)).Decode(&req.Params); err != nil {
		return req, fmt.Errorf("%w: the body is no JSON such as {\"prompt\":\"…\"}: %w", llmqueue.ErrInvalidParams, err)
	}
	return req, nil
}

// ask answers when the answer is there. A client that leaves cancels its request.
func (h handler) ask(w http.ResponseWriter, r *http.Request) {
	req, err := request(w, r)
	if err != nil {
		fail(w, err)
		return
	}
	req.MaxWait = 20 * time.Second // after that the other model is asked, or the client hears 429
	resp, err := h.manager.Submit(r.Context(), req)
	if err != nil {
		fail(w, err)
		return
	}
	reply(w, http.StatusOK, resp.Result)
}

// stream sends the answer as server-sent events while it comes. The handler writes; the
// processor only emits, and notices when nobody takes what it emits any more.
func (h handler) stream(w http.ResponseWriter, r *http.Request) {
	req, err := request(w, r)
	if err != nil {
		fail(w, err)
		return
	}
	req.Params.Stream, req.MaxWait = true, 20*time.Second
	queue, _ := h.manager.Queue(large)
	out := http.NewResponseController(w)
	begun := false
	for chunk, err := range llmqueue.Stream[string](r.Context(), queue, req).Chunks() {
		if err != nil && !begun {
			fail(w, err)
			return
		}
		if !begun {
			begun = true
			w.Header().Set("Content-Type", "text/event-stream")
			w.Header().Set("Cache-Control", "no-store")
		}
		if err != nil {
			event(w, "error", problem{Error: err.Error()})
		} else {
			event(w, "", chunk)
		}
		if out.Flush() != nil {
			return // the client has left: so does the request
		}
	}
	event(w, "done", nil)
}

// event writes one server-sent event. JSON has no line breaks of its own.
func event(w http.ResponseWriter, name string, data any) {
	if name != "" {
		fmt.Fprintf(w, "event: %s\n", name)
	}
	text, _ := json.Marshal(data)
	fmt.Fprintf(w, "data: %s\n\n", text)
}

// job is where a request stands.
type job struct {
	ID             string          `json:"id"`
	Status         llmqueue.Status `json:"status"`
	Position       int             `json:"position,omitempty"`
	EstimatedStart time.Time       `json:"estimated_start,omitzero"`
	Answer         *Answer         `json:"answer,omitempty"`
	Error          string          `json:"error,omitempty"`
}

func jobOf(resp llmqueue.Response[Answer]) job {
	j := job{ID: resp.RequestID, Status: resp.Status, Position: resp.Position, EstimatedStart: resp.EstimatedStart}
	switch {
	case resp.Err != nil:
		j.Error = resp.Err.Error()
	case resp.Status == llmqueue.StatusCompleted:
		j.Answer = &resp.Result
	}
	return j
}

// submit hands a request in and says where to look for its answer.
func (h handler) submit(w http.ResponseWriter, r *http.Request) {
	req, err := request(w, r)
	if err != nil {
		fail(w, err)
		return
	}
	req.NoWait = true
	resp, err := h.manager.Submit(r.Context(), req)
	if err != nil {
		fail(w, err)
		return
	}
	w.Header().Set("Location", "/jobs/"+resp.RequestID)
	reply(w, http.StatusAccepted, jobOf(resp))
}

// job tells where a request stands. Whoever has its id may look: it is random.
func (h handler) job(w http.ResponseWriter, r *http.Request) {
	resp, err := h.manager.Status("", r.PathValue("id"))
	if resp.RequestID == "" {
		fail(w, err)
		return
	}
	reply(w, http.StatusOK, jobOf(resp))
}

func (h handler) cancel(w http.ResponseWriter, r *http.Request) {
	if err := h.manager.Cancel("", r.PathValue("id")); err != nil {
		fail(w, err)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

type problem struct {
	Error string `json:"error"`
}

// fail says what went wrong, with the status that belongs to it, and when to come again.
func fail(w http.ResponseWriter, err error) {
	status, after := llmhttp.StatusOf(err)
	if after > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(int(math.Ceil(after.Seconds()))))
	}
	text := err.Error()
	if failed := (*llmqueue.ProcessingError)(nil); errors.As(err, &failed) {
		text = "the model did not answer" // the provider's words are for the log
	}
	reply(w, status, problem{Error: text})
}

func reply(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body)
}
