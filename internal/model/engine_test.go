package model

import (
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/llmqueue/llmqueue/internal/endpoint"
	"github.com/llmqueue/llmqueue/internal/engine"
)

// TestEngineDoesWhatTheModelDoes plays random stories to an engine in virtual time. Every
// attempt starts in the model's order at the model's instant, so no limit is exceeded by
// charges known then and no startable head waits; every request ends once, as in the model;
// and each look at a limit shows the model's sum.
func TestEngineDoesWhatTheModelDoes(t *testing.T) {
	seeds := uint64(3000)
	if testing.Short() {
		seeds = 500
	}
	for seed := range seeds {
		s := Tell(seed)
		p := &player{t: t, story: s, requests: map[uint32]*played{}, seen: &Seen{RetryAt: map[string]time.Duration{}, Refused: map[string]bool{}}}
		p.play()
		if fault := s.Compare(p.seen); fault != "" {
			t.Fatalf("seed %d, limits %v, margin %v: %s", seed, s.Limits, s.Margin, fault)
		}
	}
}

// player owns an engine, and runs the attempts of a story.
type player struct {
	t        *testing.T
	story    *Story
	q        *engine.Engine
	way      *endpoint.Endpoint
	now      time.Duration
	byIndex  []*played
	requests map[uint32]*played
	running  []*running
	seen     *Seen
}

type played struct {
	*Told
	id    string
	h     uint32
	tries int
	ended bool
	last  *running
}

type running struct {
	of      *played
	number  uint32
	fate    Fate
	ends    time.Duration
	revised *endpoint.Usage
	over    bool
}

func (p *player) play() {
	s := p.story
	p.q = engine.New(engine.Config{
		MaxAttempts: s.Attempts, BaseDelay: int64(2 * time.Second), MaxDelay: int64(time.Minute), RetryBudget: -1, NoDeadlineCheck: true, Seed: s.Seed,
	})
	p.way = endpoint.New(0, time.Unix(0, 0), endpoint.Config{Limits: s.Limits, Margin: s.Margin, Emit: p.q.Emit})
	p.byIndex = make([]*played, len(s.Requests))
	p.do(func() { p.q.AddEndpoint(0, p.way) })
	steps := s.Steps
	for {
		next := time.Duration(p.q.Next())
		consider := func(at time.Duration) {
			if next == 0 || at < next {
				next = at
			}
		}
		if len(steps) > 0 {
			consider(steps[0].At)
		}
		for _, r := range p.running {
			consider(r.ends)
		}
		if next == 0 {
			break
		}
		p.now = next
		p.do(func() { p.q.Wake(p.ns()) })
		for _, r := range slices.Clone(p.running) {
			if r.ends == p.now && !r.over {
				p.conclude(r)
			}
		}
		for len(steps) > 0 && steps[0].At == p.now {
			p.step(&steps[0])
			steps = steps[1:]
		}
	}
	p.do(func() { p.q.Close(p.ns()) })
	require.True(p.t, p.q.Done(), "seed %d: it hangs", s.Seed)
}

func (p *player) ns() int64 { return int64(p.now) }

// do gives the engine an input and does what that causes.
func (p *player) do(input func()) {
	if p.q.WallClock() {
		p.q.Adjust(p.ns(), p.ns(), 0)
	}
	input()
	var cut []*running
	for i := 0; i < len(p.q.Effects); i++ {
		e := p.q.Effects[i]
		r := p.requests[e.Handle]
		switch e.Kind {
		case engine.Start:
			a := &running{of: r, number: e.Attempt, fate: r.Fates[r.tries]}
			a.ends = p.now + a.fate.Lasts
			r.tries++
			r.last = a
			p.running = append(p.running, a)
			p.seen.Starts = append(p.seen.Starts, Happened{p.now, r.id, Started, r.tries})
		case engine.Retry:
			p.seen.RetryAt[AttemptKey(r.id, r.tries)] = time.Duration(e.At)
		case engine.End:
			r.ended = true
			what := map[engine.State]What{engine.Completed: Completed, engine.Failed: Failed, engine.CanceledState: Canceled}[e.State]
			p.seen.Ends = append(p.seen.Ends, Happened{p.now, r.id, what, r.tries})
		case engine.Cut:
			cut = append(cut, r.last)
		}
	}
	p.q.Effects = p.q.Effects[:0]
	for p.q.Sweeping() {
		p.do(func() { p.q.Sweep(p.ns()) })
	}
	for _, a := range cut {
		if a.fate.Returns && !a.over {
			p.conclude(a)
		}
	}
}

func (p *player) conclude(a *running) {
	a.over = true
	p.running = slices.DeleteFunc(p.running, func(o *running) bool { return o == a })
	f := a.fate
	e := &engine.Ending{Reported: f.Reports, Used: f.Used}
	if !f.Reports && a.revised != nil {
		e.Reported, e.Used = true, *a.revised
	}
	switch f.Ends {
	case "fail", "panic", "goexit":
		e.Verdict = engine.RequestFault
	case "retry":
		e.Verdict, e.Marked = engine.PassingFault, true
	case "limited":
		e.Verdict, e.Marked, e.Unobserved, e.Delay = engine.Refused, true, true, int64(f.After)
	}
	p.do(func() { p.q.Conclude(p.ns(), a.number, e) })
}

func (p *player) step(s *Step) {
	r := p.byIndex[s.I]
	switch s.What {
	case "submit":
		p.submit(s.I)
	case "limits":
		p.do(func() { p.q.SetLimits(p.ns(), p.way, s.Limits) })
	case "pause":
		p.do(func() { p.q.Pause(p.ns()) })
	case "resume":
		p.do(func() { p.q.Resume(p.ns()) })
	case "check":
		p.look(s.At)
	}
	if r == nil {
		return // refused
	}
	switch s.What {
	case "cancel", "leave":
		p.do(func() { p.q.Cancel(p.ns(), r.h, engine.CanceledState, engine.Canceled) })
	case "update":
		u := s.Usage
		switch v := p.q.View(r.h); {
		case v.State == engine.InLine || v.State == engine.BackingOff:
			p.do(func() { p.q.UpdateEstimate(p.ns(), r.h, u, true) })
		case v.UnderWay:
			r.last.revised = &u
		default:
			p.do(func() { p.q.UpdateUsage(p.ns(), r.h, u) })
		}
	}
}

func (p *player) submit(i int) {
	d := p.story.Requests[i]
	in := engine.Request{Estimate: d.Estimate, Sized: d.Estimate != endpoint.Usage{}, Priority: d.Priority, Tenant: d.Tenant, MaxWait: int64(d.MaxWait)}
	if no := p.q.Refuse(p.ns(), &in, false); no != nil {
		p.seen.Refused[ID(i)] = true
		return
	}
	require.Nil(p.t, p.q.Unserved(&in))
	r := &played{Told: d, id: ID(i)}
	p.byIndex[i] = r
	p.do(func() {
		r.h = p.q.Submit(p.ns(), &in, nil)
		p.requests[r.h] = r
	})
}

func (p *player) look(at time.Duration) {
	p.do(func() { p.q.Wake(p.ns()) })
	c := p.q.Counts()
	l := Looked{At: at, Pending: c.Pending, Processing: c.Processing, Abandoned: c.Abandoned}
	windows := 0
	for _, limit := range p.way.Limits() {
		if limit.Kind != endpoint.Concurrent {
			windows++
		}
	}
	for i := range windows {
		used, _, _ := p.way.WindowUsage(p.ns(), i)
		l.Used = append(l.Used, used)
	}
	p.seen.Checks = append(p.seen.Checks, l)
}
