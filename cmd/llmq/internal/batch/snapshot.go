package batch

import (
	"strings"
	"time"

	"github.com/llmqueue/llmqueue"
)

// snapshot is how the run stands.
func (r *run) snapshot() Snapshot {
	now := time.Now()
	s := Snapshot{
		Time: now, Before: r.before.Load(), Done: r.done.Load(), Failed: r.failed.Load(), Hits: r.hits.Load(),
		Input: r.input.Load(), Output: r.output.Load(), Cost: r.money.spent(),
	}
	if r.known {
		s.Total = r.total.Load()
	}
	if e := r.stopping.Load(); e != nil {
		s.Stopping = e.Reason
	}
	if last := r.lastError.Load(); last != nil {
		s.Failing = *last
	}
	for _, model := range r.manager.Models() {
		q, ok := r.manager.Queue(model)
		if !ok {
			continue
		}
		info := q.Info()
		s.Running += info.Processing
		s.Waiting += info.Pending
		limits := together(info)
		s.Tokens += tokensOf(limits)
		for _, l := range limits {
			s.Limits = append(s.Limits, LimitUse{model, l.Limit.String(), string(l.Limit.Kind), l.Used, l.Limit.Amount})
		}
		if why := heldOut(info); why != "" && s.HeldOut == "" {
			s.HeldOut = why
		}
		switch {
		case info.PausedUntil.After(now):
			if s.Until.IsZero() || info.PausedUntil.Before(s.Until) {
				s.Until, s.Paused = info.PausedUntil, pauseReason(info)
			}
		case info.Pending > 0 && s.Paused == "" && s.WaitsFor == "":
			if next, err := r.manager.Requests(model, llmqueue.RequestFilter{Limit: 1}); err == nil && len(next) > 0 {
				s.WaitsFor, s.Until = next[0].WaitsFor, next[0].EstimatedStart
			}
		}
	}
	s.Running += int(r.batches.flight.Load())
	if text := r.batches.standing.Load(); text != nil {
		s.WaitsFor = *text
	}
	s.ETA = r.eta(now, &s).Seconds()
	return s
}

// tokensOf is how many tokens the limits of a minute hold.
func tokensOf(limits []llmqueue.LimitInfo) (n int64) {
	var in, out int64
	for _, l := range limits {
		switch l.Limit.Kind {
		case llmqueue.KindTPM:
			return l.Used
		case llmqueue.KindITPM:
			in = l.Used
		case llmqueue.KindOTPM:
			out = l.Used
		}
	}
	return in + out
}

// eta is how long the rest takes, 0 when that is not known: until one more request would
// start, by the queues' forecast, and in proportion for what is not in the queues yet. Where
// they cannot tell, it is the pace since the beginning, as limits let requests through in
// bursts.
func (r *run) eta(now time.Time, s *Snapshot) time.Duration {
	ran := r.ran.Load()
	left := r.load.requests - ran
	if !r.known || left <= 0 {
		return 0
	}
	var wait time.Duration
	for _, model := range r.manager.Models() {
		n := max(r.load.models[model], 1)
		sum := r.load.usage[model]
		mean := llmqueue.Usage{InputTokens: sum.InputTokens / n, OutputTokens: sum.OutputTokens / n}
		f, err := r.manager.Forecast(r.hard, llmqueue.Request[*item]{ModelID: model, Params: &item{}, Estimate: mean})
		if err != nil || f.WaitsFor != "" && f.EstimatedStart.IsZero() {
			wait = 0
			break
		}
		wait = max(wait, f.EstimatedStart.Sub(now))
	}
	if wait > 0 && s.Waiting > 0 {
		return time.Duration(float64(wait) * max(1, float64(left-int64(s.Running))/float64(s.Waiting)))
	}
	if ran == 0 {
		return 0
	}
	return time.Duration(float64(now.Sub(r.begin)) / float64(ran) * float64(left))
}

// pauseReason is why the endpoint that is to go on first is paused.
func pauseReason(info llmqueue.QueueInfo) string {
	for _, e := range info.Endpoints {
		if e.PausedUntil.Equal(info.PausedUntil) {
			return e.PauseReason
		}
	}
	return ""
}

// heldOut is which model's calls fail now, and why, "" when they do not.
func heldOut(info llmqueue.QueueInfo) string {
	for _, e := range info.Endpoints {
		if e.HeldOut {
			return strings.TrimSuffix(info.ModelID+": "+e.HeldOutReason, ": ")
		}
	}
	return ""
}
