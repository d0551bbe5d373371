package dashboard

import (
	"strings"
	"time"
	"unicode/utf8"

	"github.com/llmqueue/llmqueue"
)

// Bounds of what one snapshot lists for a model. The counts are always whole.
const (
	maxListed   = 200  // running requests, and waiting ones
	maxFailures = 20   // latest first
	maxID       = 512  // bytes of an id, tenant or endpoint; a longer id cannot be named in an order
	maxText     = 1000 // bytes of an error, a pause's reason or that of an endpoint held out
)

// snapshotJSON is what the page shows at one moment. Times are in milliseconds since
// 1970, and 0 when there is none.
type snapshotJSON struct {
	Time   int64        `json:"time"`
	Models []*modelJSON `json:"models"`
}

type modelJSON struct {
	Manager      int            `json:"manager"`
	Model        string         `json:"model"`
	Controls     bool           `json:"controls"` // there are buttons for it
	Paused       bool           `json:"paused"`
	PausedUntil  int64          `json:"paused_until"`
	Closed       bool           `json:"closed"`
	Pending      int            `json:"pending"`
	Processing   int            `json:"processing"`
	Slots        int64          `json:"slots"`
	Accepted     int64          `json:"accepted"`
	Completed    int64          `json:"completed"`
	Failed       int64          `json:"failed"`
	Canceled     int64          `json:"canceled"`
	Retries      int64          `json:"retries"`
	Hedges       int64          `json:"hedges"`
	Abandoned    int            `json:"abandoned"`
	Dropped      int64          `json:"dropped_events"`
	InputTokens  int64          `json:"input_tokens"`
	OutputTokens int64          `json:"output_tokens"`
	Fallbacks    int64          `json:"fallbacks"`
	FellBack     string         `json:"fallback_reason,omitempty"`
	NoUsage      string         `json:"no_usage,omitempty"`
	Endpoints    []endpointJSON `json:"endpoints"`
	Running      []requestJSON  `json:"running"`
	Waiting      []requestJSON  `json:"waiting"`
	Failures     []requestJSON  `json:"failures"`
	// Throughput is in completed requests per minute and Wait in seconds, as in the
	// charts; null when unknown.
	Throughput number `json:"throughput"`
	Wait       number `json:"wait"`

	past counts // for the next of them
}

type endpointJSON struct {
	Name        string      `json:"name"`
	Processing  int64       `json:"processing"`
	Slots       int64       `json:"slots"`
	Open        bool        `json:"open"` // the breaker
	HeldOut     bool        `json:"held_out"`
	HeldReason  string      `json:"held_out_reason,omitempty"`
	NextProbe   int64       `json:"next_probe"`
	Recent      recentJSON  `json:"recent"`
	FirstOutput float64     `json:"first_output"` // in milliseconds; 0: not known
	PausedUntil int64       `json:"paused_until"`
	PauseReason string      `json:"pause_reason,omitempty"`
	Limits      []gaugeJSON `json:"limits"`
}

// recentJSON is how calls ended of late: each counts half as much after 30 s.
type recentJSON struct {
	Served   float64 `json:"served"`
	Faults   float64 `json:"faults"`
	Failures float64 `json:"failures"`
	Refusals float64 `json:"refusals"`
}

type gaugeJSON struct {
	Name      string `json:"name"`
	Amount    int64  `json:"amount"`
	Used      int64  `json:"used"`
	Available int64  `json:"available"`
	ResetAt   int64  `json:"reset_at"`
	Shared    bool   `json:"shared"`
}

type requestJSON struct {
	ID       string `json:"id"`
	Inexact  bool   `json:"inexact,omitempty"` // the id had to be changed or cut, so no order can name it
	Tenant   string `json:"tenant,omitempty"`
	Priority int    `json:"priority,omitempty"`
	Endpoint string `json:"endpoint,omitempty"`
	Attempts int    `json:"attempts,omitempty"`
	Tokens   int64  `json:"tokens,omitempty"` // used when it ended, reserved before
	Position int    `json:"position,omitempty"`
	Created  int64  `json:"created"`
	Started  int64  `json:"started,omitempty"`
	Finished int64  `json:"finished,omitempty"`
	Expected int64  `json:"expected,omitempty"`
	WaitsFor string `json:"waits_for,omitempty"`
	Error    string `json:"error,omitempty"`
}

// key tells models of the same name apart.
type key struct {
	manager int
	model   string
}

// What a snapshot lists.
var (
	live   = []llmqueue.Status{llmqueue.StatusProcessing, llmqueue.StatusPending}
	failed = []llmqueue.Status{llmqueue.StatusFailed}
)

// collect asks all inspectors. A model that goes away meanwhile is left out.
func collect(of *settings, now time.Time) *snapshotJSON {
	s := &snapshotJSON{Time: now.UnixMilli(), Models: []*modelJSON{}}
	for i, in := range of.inspectors {
		for _, info := range in.InfoAll() {
			// What runs is listed first; some more may have started since.
			requests, err := in.Requests(info.ModelID, llmqueue.RequestFilter{Limit: info.Processing + maxListed, Statuses: live})
			if err != nil {
				continue
			}
			failures, err := in.Requests(info.ModelID, llmqueue.RequestFilter{Limit: maxFailures, Statuses: failed})
			if err != nil {
				continue
			}
			m := model(i, info)
			m.Controls = of.controlled(i)
			m.list(requests, failures)
			s.Models = append(s.Models, m)
		}
	}
	return s
}

func model(manager int, info llmqueue.QueueInfo) *modelJSON {
	m := &modelJSON{
		Manager: manager, Model: info.ModelID, Paused: info.Paused, PausedUntil: millis(info.PausedUntil), Closed: info.Closed,
		Pending: info.Pending, Processing: info.Processing, Slots: info.Slots, Accepted: info.Accepted,
		Completed: info.Completed, Failed: info.Failed, Canceled: info.Canceled, Retries: info.Retries, Hedges: info.Hedges,
		Abandoned: info.Abandoned, Dropped: info.Dropped, Fallbacks: info.Fallbacks,
		FellBack: clip(info.FallbackReason, maxText), NoUsage: clip(info.NoUsage, maxText),
		InputTokens: info.Usage.InputTokens, OutputTokens: info.Usage.OutputTokens,
		Running: []requestJSON{}, Waiting: []requestJSON{}, Failures: []requestJSON{},
		Throughput: unknown, Wait: unknown,
		past: counts{info.Since, info.Completed, info.Attempts, info.Waited},
	}
	for _, e := range info.Endpoints {
		m.Endpoints = append(m.Endpoints, endpointJSON{
			Name: clip(e.Name, maxID), Processing: e.Processing, Slots: e.Slots, Open: e.Open,
			HeldOut: e.HeldOut, HeldReason: clip(e.HeldOutReason, maxText), NextProbe: millis(e.NextProbe),
			Recent:      recentJSON{e.RecentServed, e.RecentFaults, e.RecentFailures, e.RecentRefusals},
			FirstOutput: float64(e.FirstOutput) / float64(time.Millisecond),
			PausedUntil: millis(e.PausedUntil), PauseReason: clip(e.PauseReason, maxText),
			Limits: append(gauges(e.Limits, false), gauges(e.Shared, true)...),
		})
	}
	return m
}

func gauges(limits []llmqueue.LimitInfo, shared bool) []gaugeJSON {
	gs := make([]gaugeJSON, 0, len(limits))
	for _, l := range limits {
		gs = append(gs, gaugeJSON{
			Name: l.Limit.String(), Amount: l.Limit.Amount, Used: l.Used, Available: l.Available,
			ResetAt: millis(l.ResetAt), Shared: shared,
		})
	}
	return gs
}

// list fills in the requests to show.
func (m *modelJSON) list(live, failed []llmqueue.RequestInfo) {
	for _, r := range live {
		switch {
		case r.Status == llmqueue.StatusProcessing && len(m.Running) < maxListed:
			m.Running = append(m.Running, request(r))
		case r.Status == llmqueue.StatusPending && len(m.Waiting) < maxListed:
			m.Waiting = append(m.Waiting, request(r))
		}
	}
	for _, r := range failed {
		m.Failures = append(m.Failures, request(r))
	}
}

func request(r llmqueue.RequestInfo) requestJSON {
	j := requestJSON{
		ID: clip(r.ID, maxID), Tenant: clip(r.Tenant, maxID), Priority: r.Priority, Endpoint: clip(r.Endpoint, maxID),
		Attempts: r.Attempts, Tokens: r.Estimate.Total(), Position: r.Position,
		Created: millis(r.CreatedAt), Started: millis(r.StartedAt), Finished: millis(r.FinishedAt),
		Expected: millis(r.EstimatedStart), WaitsFor: r.WaitsFor, Error: clip(r.Error, maxText),
	}
	j.Inexact = j.ID != r.ID
	if r.Status.Final() {
		j.Tokens = r.Usage.Total()
	}
	return j
}

func millis(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}

// clip makes s valid UTF-8, as JSON would, of at most n bytes and an ellipsis.
func clip(s string, n int) string {
	s = strings.ToValidUTF8(s, "\ufffd")
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n] + "…"
}
