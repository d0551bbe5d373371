package llmriver

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/llmqueue/llmqueue"
)

// kind is the one kind of all jobs: the model is the River queue.
const kind = "llmqueue"

// envelope is a request as a job's args. Model and ID make it unique where the caller chose
// the ID.
type envelope struct {
	ID       string            `json:"id" river:"unique"`
	Model    string            `json:"model" river:"unique"`
	Params   json.RawMessage   `json:"params"`
	Chosen   bool              `json:"chosen,omitempty"` // the caller chose ID
	Tenant   string            `json:"tenant,omitempty"`
	Priority int               `json:"priority,omitempty"`
	Estimate llmqueue.Usage    `json:"estimate,omitzero"`
	MaxWait  time.Duration     `json:"max_wait,omitempty"`
	Metadata map[string]string `json:"metadata,omitempty"`

	bad error // args that are none of ours
}

func (envelope) Kind() string { return kind }

// UnmarshalJSON never fails: River would try such a job again and again.
func (e *envelope) UnmarshalJSON(data []byte) error {
	type plain envelope
	if err := json.Unmarshal(data, (*plain)(e)); err != nil {
		e.bad = err
	}
	return nil
}

// requestID is the id that callers see. One that was assigned tells where the row is.
func (e *envelope) requestID(jobID int64) string {
	if e.Chosen {
		return e.ID
	}
	return e.ID + "-" + strconv.FormatInt(jobID, 36)
}

// assignedID splits an id that requestID made; a chosen one may look the same.
func assignedID(id string) (key string, jobID int64, ok bool) {
	key, tail, ok := strings.Cut(id, "-")
	if !ok || len(key) != keyLength {
		return "", 0, false
	}
	jobID, err := strconv.ParseInt(tail, 36, 64)
	return key, jobID, err == nil && jobID > 0
}

const keyLength = 16

func newKey() string { return strings.ToLower(rand.Text()[:keyLength]) }

// newEnvelope is a request as it is stored.
func newEnvelope[P any](req llmqueue.Request[P]) (envelope, error) {
	params, err := json.Marshal(req.Params)
	if err != nil {
		return envelope{}, fmt.Errorf("%w: params of type %T do not go into JSON: %w", llmqueue.ErrInvalidParams, req.Params, err)
	}
	e := envelope{
		ID: req.ID, Model: req.ModelID, Params: pack(params), Chosen: req.ID != "",
		Tenant: req.Tenant, Priority: req.Priority, Estimate: req.Estimate, MaxWait: req.MaxWait, Metadata: req.Metadata,
	}
	if !e.Chosen {
		e.ID = newKey()
	}
	for _, s := range []string{e.ID, e.Model, e.Tenant} {
		if strings.ContainsRune(s, 0) {
			return envelope{}, fmt.Errorf("%w: the zero byte in an id, model or tenant cannot be stored, leave it out", llmqueue.ErrInvalidParams)
		}
	}
	for k, v := range e.Metadata {
		if strings.ContainsRune(k, 0) || strings.ContainsRune(v, 0) {
			return envelope{}, fmt.Errorf("%w: the zero byte in Metadata cannot be stored, leave it out", llmqueue.ErrInvalidParams)
		}
	}
	return e, nil
}

// request is the reverse of newEnvelope.
func request[P any](e *envelope, requestID string) (llmqueue.Request[P], error) {
	req := llmqueue.Request[P]{
		ID: requestID, ModelID: e.Model, Tenant: e.Tenant, Priority: e.Priority,
		Estimate: e.Estimate, MaxWait: e.MaxWait, Metadata: e.Metadata,
	}
	params, err := unpack(e.Params)
	if err == nil {
		err = json.Unmarshal(params, &req.Params)
	}
	if err != nil {
		return req, fmt.Errorf("%w: the stored params cannot be decoded into %T: %w", llmqueue.ErrInvalidParams, req.Params, err)
	}
	return req, nil
}

// contentID names a request by what it asks, so that a second one with the same id is
// refused.
func contentID(e *envelope) string {
	h := sha256.New()
	for _, s := range []string{e.Model, e.Tenant, string(e.Params)} {
		fmt.Fprintf(h, "%d:%s", len(s), s)
	}
	return "unique-" + hex.EncodeToString(h.Sum(nil)[:16])
}

// queueName is the River queue of a model: readable as far as River's alphabet allows, and
// different for different models by the hash.
func queueName(modelID string) string {
	slug := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' {
			return r
		}
		return '-'
	}, strings.ToLower(modelID))
	if len(slug) > 40 {
		slug = slug[:40]
	}
	sum := sha256.Sum256([]byte(modelID))
	return "llm-" + strings.Trim(slug, "-") + "-" + hex.EncodeToString(sum[:6])
}

// riverPriority maps any priority to River's four, 1 first. Within what is fetched the
// manager's line orders exactly.
func riverPriority(p int) int {
	switch {
	case p >= 2:
		return 1
	case p == 1:
		return 2
	case p == 0:
		return 3
	default:
		return 4
	}
}

// unstorable finds what PostgreSQL's jsonb refuses in JSON text: the zero character and lone
// surrogates. It also finds an escaped backslash before such a text, which does no harm.
var unstorable = regexp.MustCompile(`\\u(0000|[dD][89abAB][0-9a-fA-F]{2}|[dD][c-fC-F][0-9a-fA-F]{2})`)

const packed = `{"llmriver_base64"`

type packedJSON struct {
	Base64 []byte `json:"llmriver_base64"`
}

// pack makes any JSON storable.
func pack(data []byte) json.RawMessage {
	if !unstorable.Match(data) && !bytes.HasPrefix(data, []byte(packed)) {
		return data
	}
	return json.RawMessage(packed + `:"` + base64.StdEncoding.EncodeToString(data) + `"}`)
}

func unpack(data json.RawMessage) ([]byte, error) {
	if !bytes.HasPrefix(data, []byte(packed)) {
		return data, nil
	}
	var p packedJSON
	if err := json.Unmarshal(data, &p); err != nil {
		return nil, err
	}
	return p.Base64, nil
}

type keyOfJob struct{}

// Key is the idempotency key of the job that a processor works: the request's id as Submit
// returned it, the same over retries, restarts and processes. Empty outside a job.
func Key(ctx context.Context) string {
	key, _ := ctx.Value(keyOfJob{}).(string)
	return key
}
