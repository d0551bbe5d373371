package plan

import (
	"math"
	"slices"
	"time"

	"github.com/llmqueue/llmqueue"
	"github.com/llmqueue/llmqueue/internal/bridge"
	"github.com/llmqueue/llmqueue/internal/endpoint"
	"github.com/llmqueue/llmqueue/internal/engine"
	"github.com/llmqueue/llmqueue/internal/timeline"
)

// What the head of the line waits for, besides a limit of a period.
const waitsForSlot = string(llmqueue.KindConcurrent)

// begin is the instant at which a plan begins: none of the engine's is 0.
const begin = 1

// instant is when a request arrives.
func instant(at time.Duration) int64 { return endpoint.After(begin, int64(at)) }

// player is the owner of an engine whose time it keeps: no goroutine, no timer and no lock.
type player struct {
	settings bridge.Plan
	engine   *engine.Engine
	endpoint *endpoint.Endpoint
	now      int64             // ns since the epoch
	in       engine.Request    // what arrives, for reuse
	jobs     []job             // of what waits and runs, by handle
	running  timeline.Timeline // when attempts end, by number
	arrived  int
	first    int64 // arrival
	last     int64 // start
	ended    int64
	waited   spread
	busy     float64 // ns of all slots
	used     endpoint.Usage
	held     map[string]int64
	charged  []float64 // by limit
}

// job is what a request does once it has started.
type job struct {
	used     endpoint.Usage
	duration int64
}

func newPlayer(opts []llmqueue.Option) (*player, error) {
	settings, err := bridge.PlanOf(time.Now(), opts)
	if err != nil {
		return nil, err
	}
	p := &player{
		settings: settings, engine: engine.New(settings.Engine), now: begin,
		held: map[string]int64{}, charged: make([]float64, len(settings.Limits)),
	}
	p.waited.counts = map[int64]int64{}
	config := settings.Endpoint
	config.Emit = p.engine.Emit
	p.endpoint = endpoint.New(p.now, p.settings.Epoch, config)
	p.engine.AddEndpoint(p.now, p.endpoint)
	return p, nil
}

// request is r in the words of the engine, until the next call.
func (p *player) request(r *Request) *engine.Request {
	p.in = engine.Request{Estimate: fromUsage(r.Estimate), Sized: r.Estimate != llmqueue.Usage{}, Priority: r.Priority, Tenant: r.Tenant}
	return &p.in
}

// step moves on to the next instant at which anything happens and lets one thing happen,
// unless it lies beyond until: then it moves there and returns false.
func (p *player) step(until int64) bool {
	next, ends := p.engine.Next(), false
	if _, at, runs := p.running.First(); runs && (next == 0 || at <= next) {
		next, ends = at, true
	}
	if next > until || next == 0 {
		if until < math.MaxInt64 {
			p.moveTo(until)
		}
		return false
	}
	p.moveTo(next)
	if ends {
		attempt, _, _ := p.running.Pop()
		p.end(attempt)
	} else {
		p.engine.Wake(p.now)
	}
	p.carryOut()
	return true
}

// moveTo moves time, and books what the head of the line waits for meanwhile.
func (p *player) moveTo(at int64) {
	if at <= p.now {
		return
	}
	if holds := p.holds(); holds != "" {
		p.held[holds] += at - p.now
	}
	p.now = at
}

// holds is what the head of the line waits for longest; empty when there is none.
func (p *player) holds() string {
	_, slot, _ := p.running.First()
	_, wait, _ := p.engine.Head(slot)
	switch wait.Cause {
	case endpoint.WindowLimit:
		return p.name(wait.Limit)
	case endpoint.Slot:
		return waitsForSlot
	}
	return ""
}

// name is what a limit of the endpoint is called.
func (p *player) name(l endpoint.Limit) string {
	return p.settings.Limits[slices.Index(p.settings.Endpoint.Limits, l)]
}

// arrive submits r now.
func (p *player) arrive(r *Request) {
	if p.arrived == 0 {
		p.first, p.last, p.ended = p.now, p.now, p.now
	}
	j := job{used: fromUsage(r.Used), duration: int64(r.Duration)}
	if j.used == (endpoint.Usage{}) {
		j.used = fromUsage(r.Estimate)
	}
	p.arrived++
	h := p.engine.Submit(p.now, p.request(r), nil)
	if grow := int(h) + 1 - len(p.jobs); grow > 0 {
		p.jobs = append(p.jobs, make([]job, grow)...)
	}
	p.jobs[h] = j
	p.carryOut()
}

// carryOut does what the engine decided.
func (p *player) carryOut() {
	for i := range p.engine.Effects {
		switch e := &p.engine.Effects[i]; e.Kind {
		case engine.Start:
			p.last = p.now
			p.waited.add(e.Waited)
			p.running.Set(e.Attempt, endpoint.After(p.now, p.jobs[e.Handle].duration))
		case engine.End:
			p.engine.Forget(e.Handle)
		}
	}
	p.engine.Effects = p.engine.Effects[:0]
}

// end is the end of an attempt.
func (p *player) end(attempt uint32) {
	var started engine.Job
	p.engine.Job(attempt, &started)
	job := p.jobs[started.Handle]
	charged, reported := started.Reserved, job.used != endpoint.Usage{}
	if reported {
		charged = p.endpoint.Settled(charged, job.used)
	}
	for i, l := range p.settings.Endpoint.Limits {
		if l.Kind != endpoint.Concurrent {
			p.charged[i] += float64(l.Takes(charged))
		}
	}
	p.used = p.used.Plus(job.used)
	p.busy += float64(job.duration)
	p.ended = p.now
	p.engine.Conclude(p.now, attempt, &engine.Ending{Reported: reported, Used: job.used})
}

func (p *player) result() Result {
	r := Result{
		Requests: int64(p.arrived), Makespan: time.Duration(p.ended - p.first), LastStart: time.Duration(p.last - p.first),
		Wait: p.waited.summary(), Used: toUsage(p.used),
	}
	for i, l := range p.settings.Endpoint.Limits {
		if l.Kind != endpoint.Concurrent {
			name := p.settings.Limits[i]
			quota := p.charged[i] / float64(l.Amount) / float64(p.periods(l))
			r.Limits = append(r.Limits, Limit{name, time.Duration(p.held[name]), quota})
		}
	}
	slots := Limit{Limit: waitsForSlot, Held: time.Duration(p.held[waitsForSlot])}
	if r.Makespan > 0 {
		slots.Quota = p.busy / float64(p.endpoint.Slots()) / float64(r.Makespan)
	}
	r.Limits = append(r.Limits, slots)
	slices.SortStableFunc(r.Limits, func(a, b Limit) int { return int(min(max(b.Held-a.Held, -1), 1)) })
	return r
}

// periods is how many periods of l began from the first arrival to the last start.
func (p *player) periods(l endpoint.Limit) int64 {
	if l.Resets != nil {
		day := func(ns int64) int64 {
			y, m, d := p.settings.Epoch.Add(time.Duration(ns)).In(l.Resets).Date()
			return time.Date(y, m, d, 0, 0, 0, 0, time.UTC).Unix() / 86400
		}
		return day(p.last) - day(p.first) + 1
	}
	return (p.last-p.first)/int64(l.Hold(p.endpoint.Margin())) + 1
}
