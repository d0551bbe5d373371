package llmtest

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"text/tabwriter"
	"time"
)

// WriteTimeline writes what the server saw, as a table for people: a line for
// each step of time in which something happened, or for each request if step is
// zero. Times count from the server's start. It is safe for concurrent use, also
// after Close.
func (s *Server) WriteTimeline(w io.Writer, step time.Duration) error {
	e := s.enforcer
	e.mu.Lock()
	arrivals, charges := slices.Clone(e.arrivals), slices.Clone(e.charges)
	e.mu.Unlock()
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	if step <= 0 {
		writeArrivals(table, e.start, arrivals)
	} else {
		writeSteps(table, e.start, step, arrivals, charges)
	}
	return table.Flush()
}

func writeArrivals(w io.Writer, start time.Time, arrivals []Arrival) {
	fmt.Fprint(w, "time\tmodel\tinput\toutput\tcharged\ttook\tverdict\twhy\t\n")
	for i := range arrivals {
		a := &arrivals[i]
		why := a.Fault.String()
		if a.Verdict == Refused {
			why = a.Broken.String()
		}
		fmt.Fprintf(w, "%v\t%s\t%d\t%d\t%d\t%v\t%s\t%s\t\n",
			a.At.Sub(start).Round(time.Millisecond), a.Model, a.InputTokens, a.OutputTokens, a.Charged, a.Duration.Round(time.Millisecond), a.Verdict, why)
	}
}

// A timelineRow is one step of a timeline.
type timelineRow struct {
	arrived, accepted, refused, overloaded, failed, canceled int
	tokens                                                   int64
	begun, ended                                             int
}

func writeSteps(w io.Writer, start time.Time, step time.Duration, arrivals []Arrival, charges []charge) {
	rows := make(map[time.Duration]*timelineRow)
	row := func(at time.Duration) *timelineRow {
		i := at / step
		if rows[i] == nil {
			rows[i] = new(timelineRow)
		}
		return rows[i]
	}
	for i := range arrivals {
		a := &arrivals[i]
		began := a.At.Sub(start)
		r := row(began)
		r.arrived++
		switch a.Verdict {
		case Refused:
			r.refused++
			continue
		case Overloaded:
			r.overloaded++
			continue
		}
		r.accepted++
		r.begun++
		if a.Verdict == Running {
			continue
		}
		r = row(began + a.Duration)
		r.ended++
		switch a.Verdict {
		case Failed:
			r.failed++
		case Canceled:
			r.canceled++
		}
	}
	for i := range charges {
		row(charges[i].at).tokens += charges[i].amount(KindTokens)
	}
	fmt.Fprint(w, "from\tarrived\taccepted\trefused\toverloaded\tfailed\tcanceled\ttokens charged\tthen running\t\n")
	running := 0
	for _, i := range slices.Sorted(maps.Keys(rows)) {
		r := rows[i]
		running += r.begun - r.ended
		fmt.Fprintf(w, "%v\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t\n",
			i*step, r.arrived, r.accepted, r.refused, r.overloaded, r.failed, r.canceled, r.tokens, running)
	}
}
