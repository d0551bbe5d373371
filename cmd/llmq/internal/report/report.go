// Package report sums a file of results up.
package report

import (
	"cmp"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/llmqueue/llmqueue"
	"github.com/llmqueue/llmqueue/cmd/llmq/internal/journal"
	"github.com/llmqueue/llmqueue/cmd/llmq/internal/prices"
	"github.com/llmqueue/llmqueue/cmd/llmq/internal/results"
)

// Report is what a file of results says, in memory that does not grow with its length but
// with the time that the runs took.
type Report struct {
	Requests int64     `json:"requests"`
	Answered int64     `json:"answered"`
	Failed   int64     `json:"failed"`
	Attempts int64     `json:"attempts"`
	Hits     int64     `json:"cache_hits"` // answers from the cache, which have no latency
	Latency  Latency   `json:"latency"`    // of the answers
	Models   []Model   `json:"models"`
	Failures []Failure `json:"failures"`
	Cost     float64   `json:"cost_usd"` // 0 without prices
	Begin    time.Time `json:"begin,omitzero"`
	End      time.Time `json:"end,omitzero"`

	table prices.Table
	by    map[string]*model
	codes map[string]*Failure
	spans *spread
	slot  time.Duration // the resolution of the series
}

// Latency is percentiles in milliseconds, each up to 1% too high.
type Latency struct {
	P50 float64 `json:"p50_ms"`
	P90 float64 `json:"p90_ms"`
	P95 float64 `json:"p95_ms"`
	P99 float64 `json:"p99_ms"`
	Max float64 `json:"max_ms"`
}

// Model is the part of one model.
type Model struct {
	Model    string  `json:"model"`
	Requests int64   `json:"requests"`
	Failed   int64   `json:"failed"`
	Input    int64   `json:"input_tokens"`
	Output   int64   `json:"output_tokens"`
	Cached   int64   `json:"cached_input_tokens"`
	Cost     float64 `json:"cost_usd"`
	Priced   bool    `json:"priced"`
	Latency  Latency `json:"latency"`
}

// Failure is one kind of failure.
type Failure struct {
	Code    string `json:"code"`
	Count   int64  `json:"count"`
	Example string `json:"example"`
}

// model collects what there is of one.
type model struct {
	Model
	usage  llmqueue.Usage
	halved llmqueue.Usage // the part of usage at half the price: of batches and the tier flex
	spans  *spread
	slots  map[int64]load // by start, in slots of the series
}

// load is what started in a slot.
type load struct{ requests, tokens int64 }

// Read sums a file up. Prices may be nil. period is that of the limits per minute.
func Read(path string, table prices.Table, period time.Duration) (*Report, error) {
	r := &Report{slot: max(period/60, time.Millisecond), table: table, by: map[string]*model{}, codes: map[string]*Failure{}, spans: newSpread()}
	if err := results.Read(path, r.add); err != nil {
		return nil, err
	}
	r.Latency = r.spans.latency()
	for _, name := range slices.Sorted(maps.Keys(r.by)) {
		m := r.by[name]
		m.Input, m.Output, m.Cached = m.usage.InputTokens, m.usage.OutputTokens, m.usage.CachedInputTokens
		if p, ok := table.Of(name); ok {
			m.Cost, m.Priced = p.Cost(m.usage)-(1-results.BatchShare)*p.Cost(m.halved), true
			r.Cost += m.Cost
		}
		m.Latency = m.spans.latency()
		r.Models = append(r.Models, m.Model)
	}
	for _, f := range r.codes {
		r.Failures = append(r.Failures, *f)
	}
	slices.SortFunc(r.Failures, func(a, b Failure) int { return cmp.Or(cmp.Compare(b.Count, a.Count), cmp.Compare(a.Code, b.Code)) })
	return r, nil
}

func (r *Report) add(rec *results.Record) {
	m := r.by[rec.Run.Model]
	if m == nil {
		m = &model{Model: Model{Model: rec.Run.Model}, spans: newSpread(), slots: map[int64]load{}}
		r.by[rec.Run.Model] = m
	}
	r.Requests++
	m.Requests++
	r.Attempts += int64(rec.Run.Attempts)
	u := rec.Run.Usage()
	m.usage.InputTokens += u.InputTokens
	m.usage.OutputTokens += u.OutputTokens
	m.usage.CachedInputTokens += u.CachedInputTokens
	if rec.Run.Share() == results.BatchShare {
		m.halved.InputTokens += u.InputTokens
		m.halved.OutputTokens += u.OutputTokens
		m.halved.CachedInputTokens += u.CachedInputTokens
	}
	if rec.Failed() {
		r.Failed++
		m.Failed++
		r.fail(rec)
	} else {
		r.Answered++
		if rec.Run.FromCache {
			r.Hits++
			return
		}
		r.spans.add(rec.Run.LatencyMS)
		m.spans.add(rec.Run.LatencyMS)
	}
	if at := rec.Run.StartedAt; !at.IsZero() {
		end := at.Add(time.Duration(rec.Run.LatencyMS * float64(time.Millisecond)))
		if r.Begin.IsZero() || at.Before(r.Begin) {
			r.Begin = at
		}
		if end.After(r.End) {
			r.End = end
		}
		i := at.UnixNano() / int64(r.slot)
		l := m.slots[i]
		l.requests++
		l.tokens += cmp.Or(rec.Run.Charged, u.Total())
		m.slots[i] = l
	}
}

// maxCodes bounds how many kinds of failures are told apart.
const maxCodes = 100

func (r *Report) fail(rec *results.Record) {
	code, message := "unknown", ""
	if rec.Error != nil {
		code, message = rec.Error.Code, rec.Error.Message
	}
	f := r.codes[code]
	if f == nil {
		if len(r.codes) >= maxCodes {
			code = "other"
		}
		if f = r.codes[code]; f == nil {
			f = &Failure{Code: code, Example: message}
			r.codes[code] = f
		}
	}
	f.Count++
}

// spread counts milliseconds in buckets that are 1% wide.
type spread struct {
	counts map[int]int64
	n      int64
	most   float64
}

func newSpread() *spread { return &spread{counts: map[int]int64{}} }

const width = 1.01

func (s *spread) add(ms float64) {
	s.counts[int(math.Ceil(math.Log(max(ms, 0.001))/math.Log(width)))]++
	s.n++
	s.most = max(s.most, ms)
}

func (s *spread) latency() Latency {
	buckets := slices.Sorted(maps.Keys(s.counts))
	quantile := func(share float64) float64 {
		rank := int64(math.Ceil(share * float64(s.n)))
		for _, b := range buckets {
			if rank -= s.counts[b]; rank <= 0 {
				return math.Round(1000*min(math.Pow(width, float64(b)), s.most)) / 1000
			}
		}
		return 0
	}
	return Latency{quantile(0.5), quantile(0.9), quantile(0.95), quantile(0.99), s.most}
}

// Series is what one model started in any period, over time, and what its limits allowed.
type Series struct {
	Model    string
	Requests []float64 // the most in any period that ended since the point before
	Tokens   []float64
	// The limits of the period at each point; NaN where none is known.
	RequestLimit, TokenLimit []float64
}

// Over returns the series of all models at n points evenly spread from begin to end, and
// the points. past says which limits were in force.
func (r *Report) Over(n int, period time.Duration, past *journal.Past) (points []time.Time, list []Series) {
	if r.Begin.IsZero() {
		return nil, nil
	}
	first, last := r.Begin.UnixNano()/int64(r.slot), r.End.UnixNano()/int64(r.slot)
	points = make([]time.Time, n)
	for i := range points {
		points[i] = time.Unix(0, (first+(last-first)*int64(i)/int64(max(n-1, 1)))*int64(r.slot))
	}
	within := int64(period / r.slot)
	for _, name := range slices.Sorted(maps.Keys(r.by)) {
		m := r.by[name]
		s := Series{Model: name, Requests: make([]float64, n), Tokens: make([]float64, n), RequestLimit: make([]float64, n), TokenLimit: make([]float64, n)}
		starts := slices.Sorted(maps.Keys(m.slots))
		var sum load
		oldest, next := 0, 0
		leave := func(now int64) {
			for oldest < next && starts[oldest] <= now-within {
				l := m.slots[starts[oldest]]
				sum.requests -= l.requests
				sum.tokens -= l.tokens
				oldest++
			}
		}
		for i, at := range points {
			now := at.UnixNano() / int64(r.slot)
			for next < len(starts) && starts[next] <= now {
				leave(starts[next])
				l := m.slots[starts[next]]
				sum.requests += l.requests
				sum.tokens += l.tokens
				next++
				s.Requests[i] = max(s.Requests[i], float64(sum.requests))
				s.Tokens[i] = max(s.Tokens[i], float64(sum.tokens))
			}
			leave(now)
			s.Requests[i] = max(s.Requests[i], float64(sum.requests))
			s.Tokens[i] = max(s.Tokens[i], float64(sum.tokens))
			s.RequestLimit[i] = limitAt(past, name, at, period, llmqueue.KindRPM)
			s.TokenLimit[i] = limitAt(past, name, at, period, llmqueue.KindTPM)
		}
		list = append(list, s)
	}
	return points, list
}

// limitAt is the amount of a kind that was in force for a period at all endpoints, or NaN.
func limitAt(past *journal.Past, model string, at time.Time, period time.Duration, kind llmqueue.LimitKind) float64 {
	sum := amountAt(past, model, at, period, kind)
	for _, key := range past.Models() {
		if strings.HasPrefix(key, model+journal.At) { // another endpoint
			if more := amountAt(past, key, at, period, kind); !math.IsNaN(more) {
				sum += more
			}
		}
	}
	return sum
}

func amountAt(past *journal.Past, key string, at time.Time, period time.Duration, kind llmqueue.LimitKind) float64 {
	amount := math.NaN()
	for _, c := range past.Limits(key) {
		if c.At.After(at.Add(time.Second)) {
			break
		}
		amount = math.NaN()
		for _, l := range c.Limits {
			if p := cmp.Or(l.Period, time.Minute); l.Kind == kind && p == period {
				amount = float64(l.Amount)
			}
		}
	}
	return amount
}

// PeriodOf is the period of the limits per minute that the journal knows: a minute, unless
// a trial scaled it.
func PeriodOf(past *journal.Past) time.Duration {
	for _, model := range past.Models() {
		changes := past.Limits(model)
		for _, c := range slices.Backward(changes) {
			for _, l := range c.Limits {
				switch l.Kind {
				case llmqueue.KindRPM, llmqueue.KindTPM, llmqueue.KindITPM, llmqueue.KindOTPM:
					return cmp.Or(l.Period, time.Minute)
				}
			}
		}
	}
	return time.Minute
}
