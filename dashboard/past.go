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
	completed        int64         // so far
	started          int           // first attempts since the sample before
	waited           time.Duration // of those, together
	throughput, wait number
	gap              bool // nobody watched after the sample before
}

// add appends a sample. starts are what is known to have started of late.
func (p *past) add(now time.Time, m *modelJSON, starts []start) {
	since := now.Add(-tick)
	if n := len(p.samples); n > 0 {
		if last := p.samples[n-1].at; now.Sub(last) <= longestGap {
			since = last
		} else {
			p.samples = append(p.samples, sample{at: last.Add(tick), gap: true, throughput: unknown, wait: unknown})
		}
	}
	s := sample{at: now, completed: m.Completed, throughput: unknown, wait: unknown}
	for _, st := range starts {
		if st.at.After(since) && !st.at.After(now) {
			s.started++
			s.waited += st.wait
		}
	}

	started, waited := s.started, s.waited
	for _, before := range slices.Backward(p.samples) {
		span := now.Sub(before.at)
		if before.gap || span > smoothing {
			break
		}
		s.throughput = number(float64(s.completed-before.completed) / span.Minutes())
		if span < smoothing {
			started += before.started
			waited += before.waited
		}
	}
	switch {
	case started > 0:
		s.wait = number(waited.Seconds() / float64(started))
	case len(m.Waiting) > 0: // nothing starts: how long the next one has waited so far
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
