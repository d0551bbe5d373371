package dashboard

import (
	"math"
	"slices"
	"strconv"
	"time"
)

const (
	maxSamples = 900              // 15 minutes
	smoothing  = 10 * time.Second // a point of a chart is the mean over this long
	longestGap = 5 * time.Second  // beyond it nobody watched, and the lines break
)

// number is a figure that may be unknown, which JSON has as null.
type number float64

var unknown = number(math.NaN())

// MarshalJSON writes three digits after the point, or null.
func (n number) MarshalJSON() ([]byte, error) {
	if f := float64(n); !math.IsNaN(f) && !math.IsInf(f, 0) {
		return strconv.AppendFloat(nil, math.Round(f*1000)/1000, 'f', -1, 64), nil
	}
	return []byte("null"), nil
}

// past is the history of one model, oldest first.
type past struct{ samples []sample }

type sample struct {
	at               time.Time
	counts           counts
	throughput, wait number
	gap              bool // what follows does not go on from what was before
}

// counts are what a queue has counted.
type counts struct {
	since               time.Time // it began
	completed, attempts int64
	waited              time.Duration // of all attempts together
}

// add appends a sample.
func (p *past) add(now time.Time, m *modelJSON) {
	if n := len(p.samples); n > 0 {
		last := p.samples[n-1]
		if now.Sub(last.at) > longestGap || !m.past.since.Equal(last.counts.since) {
			p.samples = append(p.samples, sample{at: last.at.Add(min(tick, now.Sub(last.at)/2)), gap: true, throughput: unknown, wait: unknown})
		}
	}
	s := sample{at: now, counts: m.past, throughput: unknown, wait: unknown}
	started := int64(0)
	for _, before := range slices.Backward(p.samples) {
		span := now.Sub(before.at)
		if before.gap || span > smoothing {
			break
		}
		s.throughput = number(float64(s.counts.completed-before.counts.completed) / span.Minutes())
		if started = s.counts.attempts - before.counts.attempts; started > 0 {
			s.wait = number((s.counts.waited - before.counts.waited).Seconds() / float64(started))
		}
	}
	if started == 0 && len(m.Waiting) > 0 { // nothing starts: how long the next one has waited so far
		s.wait = number(float64(now.UnixMilli()-m.Waiting[0].Created) / 1000)
	}

	p.samples = append(p.samples, s)
	if extra := len(p.samples) - maxSamples; extra > 0 {
		p.samples = slices.Delete(p.samples, 0, extra)
	}
}

// pastJSON is a history as the page's chart takes it: times in seconds since 1970,
// completed requests per minute, and seconds of wait.
type pastJSON struct {
	Manager    int      `json:"manager"`
	Model      string   `json:"model"`
	Times      []number `json:"times"`
	Throughput []number `json:"throughput"`
	Wait       []number `json:"wait"`
}

func (p *past) json(k key) pastJSON {
	j := pastJSON{Manager: k.manager, Model: k.model, Times: []number{}, Throughput: []number{}, Wait: []number{}}
	for _, s := range p.samples {
		j.Times = append(j.Times, number(float64(s.at.UnixMilli())/1000))
		j.Throughput = append(j.Throughput, s.throughput)
		j.Wait = append(j.Wait, s.wait)
	}
	return j
}
