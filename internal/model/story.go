// Package model has what the tests of the engine and of the root compare them with: random
// stories of a queue, and a model of it that follows them with lists and nothing clever.
package model

import (
	"cmp"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/llmqueue/llmqueue/internal/endpoint"
)

// Story is what happens to one queue: requests with their fate, and interventions.
// Instants are random nanoseconds, so that no two of them coincide.
type Story struct {
	Seed     uint64
	Limits   []endpoint.Limit
	Margin   time.Duration // negative: the default
	Attempts int           // how often a request fails in a passing way at most
	Requests []*Told
	Steps    []Step // in order of time
}

// Told is a request of a story.
type Told struct {
	At       time.Duration
	Priority int
	Tenant   string
	Estimate endpoint.Usage // zero: unknown
	MaxWait  time.Duration
	Waited   bool   // somebody waits for it, who may leave
	Fates    []Fate // of its attempts; those that are refused do not count for Attempts
}

// mostRefusals keeps the stories from where a request that is refused again and again fails.
const mostRefusals = 3

// Fate is what becomes of one attempt.
type Fate struct {
	Lasts   time.Duration
	Reports bool
	Used    endpoint.Usage
	Ends    string // ok, fail, panic, goexit, retry, limited
	After   time.Duration
	Returns bool // when its context ends
}

// Step is something that happens to the queue.
type Step struct {
	At     time.Duration
	What   string // submit, cancel, leave, update, limits, pause, resume, check
	I      int    // the request
	Usage  endpoint.Usage
	Limits []endpoint.Limit
}

// Tell makes up the story of a seed.
func Tell(seed uint64) *Story {
	r := rand.New(rand.NewPCG(seed, 1))
	oneIn := func(n int) bool { return r.IntN(n) == 0 }
	upTo := func(d time.Duration) time.Duration { return time.Duration(r.Int64N(int64(d))) + 1 }
	usage := func(most int64) endpoint.Usage {
		return endpoint.Usage{Input: 1 + r.Int64N(most), Output: r.Int64N(most)}
	}
	periods := []time.Duration{3 * time.Second, 10 * time.Second, time.Minute, 2 * time.Hour}
	limits := func() []endpoint.Limit {
		out := []endpoint.Limit{{Kind: endpoint.TPD, Amount: 1 << 20}} // hardly ever binds: it remembers every charge
		for _, l := range []endpoint.Limit{{Kind: endpoint.RPM, Amount: 1 + r.Int64N(8)}, {Kind: endpoint.RPM, Amount: 1 + r.Int64N(20)}, {Kind: endpoint.TPM, Amount: 20 + r.Int64N(100)}, {Kind: endpoint.TPM, Amount: 50 + r.Int64N(300)}, {Kind: endpoint.ITPM, Amount: 10 + r.Int64N(60)}, {Kind: endpoint.OTPM, Amount: 10 + r.Int64N(60)}} {
			if oneIn(2) {
				l.Period = periods[r.IntN(len(periods))]
				if !slices.ContainsFunc(out, l.Like) {
					out = append(out, l)
				}
			}
		}
		if !oneIn(3) {
			out = append(out, endpoint.Limit{Kind: endpoint.Concurrent, Amount: 1 + r.Int64N(6)})
		}
		return out
	}
	s := &Story{Seed: seed, Limits: limits(), Margin: -1, Attempts: 1 + r.IntN(4)}
	if oneIn(2) {
		s.Margin = upTo(time.Second) - 1
	}
	span := time.Duration(1+r.IntN(100)) * time.Second
	unknown := []int{1, 3, 1000, 1000}[r.IntN(4)] // one in so many requests does not know its size
	tenants, priorities := 1+r.IntN(4), 1+r.IntN(3)
	for i := range 5 + r.IntN(80) {
		q := &Told{
			At: upTo(span), Priority: r.IntN(priorities), Tenant: []string{"", "a", "b", "c"}[r.IntN(tenants)],
			Estimate: usage(14), Waited: oneIn(3),
		}
		if oneIn(unknown) {
			q.Estimate = endpoint.Usage{}
		}
		if oneIn(6) {
			q.MaxWait = upTo(time.Minute)
		}
		for refused := 0; len(q.Fates)-refused < s.Attempts; {
			f := Fate{Lasts: upTo(4 * time.Second), Reports: !oneIn(4), Used: usage(10), Ends: "ok", Returns: !oneIn(3)}
			if oneIn(4) {
				f.Used = usage(40) // an overrun
			}
			if oneIn(5) {
				f.Lasts = upTo(40 * time.Second) // longer than most windows
			}
			if oneIn(4) {
				f.Ends = []string{"fail", "panic", "goexit", "retry", "retry", "limited"}[r.IntN(6)]
				f.After = upTo(5 * time.Second)
			}
			if f.Ends == "limited" {
				if refused < mostRefusals {
					refused++
				} else {
					f.Ends = "fail"
				}
			}
			q.Fates = append(q.Fates, f)
		}
		s.Requests = append(s.Requests, q)
		s.Steps = append(s.Steps, Step{At: q.At, What: "submit", I: i})
		if oneIn(8) {
			s.Steps = append(s.Steps, Step{At: q.At + upTo(20*time.Second), What: "cancel", I: i})
		}
		if q.Waited && oneIn(4) {
			s.Steps = append(s.Steps, Step{At: q.At + upTo(20*time.Second), What: "leave", I: i})
		}
		if oneIn(6) {
			s.Steps = append(s.Steps, Step{At: q.At + upTo(40*time.Second), What: "update", I: i, Usage: usage(30)})
		}
	}
	for range r.IntN(4) {
		s.Steps = append(s.Steps, Step{At: upTo(span + 30*time.Second), What: "limits", Limits: limits()})
	}
	if oneIn(4) {
		at := upTo(span)
		s.Steps = append(s.Steps, Step{At: at, What: "pause"}, Step{At: at + upTo(20*time.Second), What: "resume"})
	}
	for range 10 {
		s.Steps = append(s.Steps, Step{At: upTo(2 * span), What: "check"})
	}
	slices.SortFunc(s.Steps, func(a, b Step) int { return cmp.Compare(a.At, b.At) })
	return s
}

// Happened is one start or end.
type Happened struct {
	At      time.Duration
	ID      string
	What    What
	Attempt int
}

// What happens to a request.
type What string

// What happens to a request.
const (
	Started   What = "started"
	Completed What = "completed"
	Failed    What = "failed"
	Canceled  What = "canceled"
)

func (h Happened) String() string {
	return h.At.String() + " " + h.ID + " " + string(h.What) + " " + strconv.Itoa(h.Attempt)
}

// Seen is all that an onlooker saw of a story.
type Seen struct {
	Starts, Ends []Happened
	RetryAt      map[string]time.Duration // by AttemptKey
	Refused      map[string]bool
	Checks       []Looked
}

// Looked is what a look at the queue showed.
type Looked struct {
	At                  time.Duration
	Used                []int64 // of each limit, and at the end how many attempts run where that is limited
	Pending, Processing int
	Abandoned           int
}

func (l Looked) String() string {
	var s strings.Builder
	s.WriteString("used")
	for _, n := range l.Used {
		s.WriteString(" " + strconv.FormatInt(n, 10))
	}
	return s.String() + ", pending " + strconv.Itoa(l.Pending) + ", processing " + strconv.Itoa(l.Processing) + ", abandoned " + strconv.Itoa(l.Abandoned)
}

// ID is the id of the i-th request of a story.
func ID(i int) string { return "r" + strconv.Itoa(i) }

// AttemptKey names the n-th attempt of a request.
func AttemptKey(id string, n int) string { return id + "#" + strconv.Itoa(n) }
