package llmqueue_test

import (
	"cmp"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/llmqueue/llmqueue"
)

// The stories of TestTraces: what is asked of one or more queues, and what becomes of it.

// plot is one story. Instants are random tens of microseconds, so that no two coincide.
type plot struct {
	theme    string
	models   []*plotModel // more than one, or one with fallbacks: of a Manager
	shared   []llmqueue.Limit
	requests []*plotRequest
	steps    []plotStep    // in order of time
	cut      time.Duration // Shutdown's context ends so long after the last step; 0: never
}

type plotModel struct {
	id          string
	limits      []llmqueue.Limit // none: unlimited
	margin      time.Duration    // negative: the default
	attempts    int
	budget      float64
	timeout     time.Duration
	maxQueued   int
	grace       time.Duration
	unchecked   bool // WithoutDeadlineCheck
	keepOnQuota bool
	learns      bool
	backfills   bool
	coalesces   bool
	estimates   bool
	shares      bool
	fuse        int // failures after which its breakers open; 0: it has none
	fallback    []string
	endpoints   []plotEndpoint
}

type plotEndpoint struct {
	name   string
	limits []llmqueue.Limit
}

type plotRequest struct {
	model    string
	at       time.Duration
	priority int
	tenant   string
	key      string // of coalescing
	estimate llmqueue.Usage
	guess    llmqueue.Usage // of the estimator
	maxWait  time.Duration
	deadline time.Duration // of the caller's context, after at
	waited   bool          // by a Submit, otherwise NoWait
	fates    []plotFate
}

// plotFate is what becomes of one attempt.
type plotFate struct {
	takes  time.Duration
	heeds  bool // returns when its context ends
	early  bool // observes half way
	used   llmqueue.Usage
	tells  string // how it says what it used: report, result, observed, or not
	ends   string
	after  time.Duration
	limits []llmqueue.ObservedLimit
}

type plotStep struct {
	at     time.Duration
	what   string // submit, cancel, leave, update, limits, pause, resume, add, remove, check
	i      int    // the request
	model  string
	name   string // the endpoint
	usage  llmqueue.Usage
	limits []llmqueue.Limit
}

// themes are what the stories are about.
var themes = []struct {
	name    string
	stories int
	write   func(w *writer)
}{
	{"line", 7, (*writer).line},
	{"jitter", 5, (*writer).jitter},
	{"endpoints", 5, (*writer).endpoints},
	{"coalescing", 5, (*writer).coalescing},
	{"backfill", 5, (*writer).backfill},
	{"breaker", 5, (*writer).breaker},
	{"fallback", 6, (*writer).fallback},
	{"observed", 5, (*writer).observed},
	{"shared", 4, (*writer).shared},
}

// writer invents a story.
type writer struct {
	*rand.Rand
	p    *plot
	span time.Duration
}

func writePlot(theme string, write func(*writer), seed uint64) *plot {
	w := &writer{Rand: rand.New(rand.NewPCG(seed, uint64(len(theme))<<8|uint64(theme[0]))), p: &plot{theme: theme}}
	w.span = time.Duration(5+w.IntN(60)) * time.Second
	write(w)
	slices.SortFunc(w.p.steps, func(a, b plotStep) int { return cmp.Compare(a.at, b.at) })
	return w.p
}

func (w *writer) oneIn(n int) bool { return w.IntN(n) == 0 }

func (w *writer) upTo(d time.Duration) time.Duration {
	const unit = 10 * time.Microsecond
	return time.Duration(1+w.Int64N(int64(d/unit))) * unit
}

func (w *writer) usage(most int64) llmqueue.Usage {
	return llmqueue.Usage{InputTokens: 1 + w.Int64N(most), OutputTokens: w.Int64N(most)}
}

// limits of random amounts for fixed kinds: SetLimits changes amounts and periods.
func (w *writer) limits(kinds ...llmqueue.LimitKind) (out []llmqueue.Limit) {
	for _, k := range kinds {
		l := llmqueue.Limit{Kind: k}
		switch k {
		case llmqueue.KindConcurrent:
			l.Amount = 1 + w.Int64N(5)
			out = append(out, l)
			continue
		case llmqueue.KindRPM:
			l.Amount = 2 + w.Int64N(10)
		case llmqueue.KindTPM:
			l.Amount = 40 + w.Int64N(150)
		default:
			l.Amount = 20 + w.Int64N(80)
		}
		l.Period = []time.Duration{3 * time.Second, 10 * time.Second, 20 * time.Second, time.Minute}[w.IntN(4)]
		if w.oneIn(4) {
			l.Burst = 1 + l.Amount/int64(1+w.IntN(4))
		}
		out = append(out, l)
	}
	return out
}

// kinds are some of all.
func (w *writer) kinds() (out []llmqueue.LimitKind) {
	for _, k := range []llmqueue.LimitKind{llmqueue.KindRPM, llmqueue.KindTPM, llmqueue.KindITPM, llmqueue.KindOTPM, llmqueue.KindConcurrent} {
		if w.oneIn(2) {
			out = append(out, k)
		}
	}
	if len(out) == 0 {
		out = append(out, llmqueue.KindRPM, llmqueue.KindConcurrent)
	}
	return out
}

func (w *writer) model(id string, limits []llmqueue.Limit) *plotModel {
	m := &plotModel{id: id, limits: limits, margin: -1, attempts: 1 + w.IntN(4), budget: -1, grace: w.upTo(2 * time.Second), unchecked: w.oneIn(2)}
	if w.oneIn(2) {
		m.margin = w.upTo(time.Second)
	}
	w.p.models = append(w.p.models, m)
	return m
}

// ask adds n requests of the model, with what their callers do. ends are how an attempt may
// end other than well, one in mostly does.
func (w *writer) ask(model string, n, mostly int, ends ...string) {
	for range n {
		i := len(w.p.requests)
		q := &plotRequest{
			model: model, at: w.upTo(w.span), priority: w.IntN(3), tenant: []string{"", "", "a", "b"}[w.IntN(4)],
			estimate: w.usage(14), guess: w.usage(14), waited: w.oneIn(2),
		}
		if w.oneIn(6) {
			q.estimate = llmqueue.Usage{}
		}
		if w.oneIn(8) {
			q.maxWait = w.upTo(20 * time.Second)
		}
		if q.waited && w.oneIn(8) {
			q.deadline = w.upTo(20 * time.Second)
		}
		for range 6 {
			q.fates = append(q.fates, w.fate(mostly, ends))
		}
		w.p.requests = append(w.p.requests, q)
		w.step(plotStep{at: q.at, what: "submit", i: i})
		if w.oneIn(10) {
			w.step(plotStep{at: q.at + w.upTo(15*time.Second), what: "cancel", i: i})
		}
		if q.waited && w.oneIn(8) {
			w.step(plotStep{at: q.at + w.upTo(15*time.Second), what: "leave", i: i})
		}
		if w.oneIn(8) {
			w.step(plotStep{at: q.at + w.upTo(25*time.Second), what: "update", i: i, usage: w.usage(30)})
		}
	}
}

func (w *writer) fate(mostly int, ends []string) plotFate {
	f := plotFate{
		takes: w.upTo(4 * time.Second), heeds: !w.oneIn(3), used: w.usage(12), ends: "ok",
		tells: []string{"report", "report", "result", "observed", ""}[w.IntN(5)], after: w.upTo(6 * time.Second),
	}
	if w.oneIn(6) {
		f.takes = w.upTo(25 * time.Second) // longer than some windows
	}
	if w.oneIn(5) {
		f.used = w.usage(40) // an overrun
	}
	if len(ends) > 0 && w.oneIn(mostly) {
		f.ends = ends[w.IntN(len(ends))]
	}
	return f
}

func (w *writer) step(s plotStep) {
	if s.model == "" {
		s.model = w.p.models[0].id
	}
	if s.what == "submit" || s.what == "cancel" || s.what == "leave" || s.what == "update" {
		s.model = w.p.requests[s.i].model
	}
	w.p.steps = append(w.p.steps, s)
}

// meddle adds what an operator does.
func (w *writer) meddle(model string, kinds ...llmqueue.LimitKind) {
	if len(kinds) > 0 {
		for range w.IntN(3) {
			w.step(plotStep{at: w.upTo(w.span), what: "limits", model: model, limits: w.limits(kinds...)})
		}
	}
	if w.oneIn(3) {
		at := w.upTo(w.span)
		w.step(plotStep{at: at, what: "pause", model: model})
		w.step(plotStep{at: at + w.upTo(10*time.Second), what: "resume", model: model})
	}
	for range 3 {
		w.step(plotStep{at: w.upTo(2 * w.span), what: "check", model: model})
	}
}

// close decides how the story ends.
func (w *writer) close() {
	switch w.IntN(3) {
	case 0:
		w.p.cut = w.upTo(5 * time.Second)
	case 1:
		if w.oneIn(2) {
			w.step(plotStep{at: 2*w.span + w.upTo(time.Second), what: "pause"}) // paused when it is shut down
		}
	}
}

func (w *writer) line() {
	kinds := w.kinds()
	m := w.model("m", w.limits(kinds...))
	if w.oneIn(3) {
		m.maxQueued = 3 + w.IntN(10)
	}
	if w.oneIn(3) {
		m.timeout = w.upTo(8 * time.Second)
	}
	m.estimates = w.oneIn(2)
	w.ask("m", 20+w.IntN(20), 3, "fail", "permanent", "panic", "goexit", "invalid", "limited", "passing", "streamed")
	w.meddle("m", kinds...)
	w.close()
}

// jitter: nothing waits for a slot or a limit, so that a nanosecond decides nothing.
func (w *writer) jitter() {
	m := w.model("m", nil)
	m.attempts = 2 + w.IntN(3)
	w.ask("m", 12+w.IntN(14), 2, "retryable", "retryable", "retryable", "limited", "fail", "panic")
	w.meddle("m")
	w.close()
}

func (w *writer) endpoints() {
	kinds := w.kinds()
	m := w.model("m", w.limits(kinds...))
	w.ask("m", 18+w.IntN(18), 3, "fail", "limited", "passing", "passing", "slow", "refused", "overloaded", "quota")
	for _, name := range []string{"b", "c"}[:1+w.IntN(2)] {
		own := w.kinds()
		m.endpoints = append(m.endpoints, plotEndpoint{name, w.limits(own...)})
		if w.oneIn(3) {
			w.step(plotStep{at: w.upTo(w.span), what: "limits", name: name, limits: w.limits(own...)})
		}
	}
	if w.oneIn(2) {
		w.step(plotStep{at: w.upTo(w.span / 2), what: "add", name: "late", limits: w.limits(w.kinds()...)})
	}
	if w.oneIn(2) {
		w.step(plotStep{at: w.span/2 + w.upTo(w.span/2), what: "remove", name: "b"})
	}
	m.keepOnQuota = w.oneIn(2)
	w.meddle("m", kinds...)
	w.close()
}

func (w *writer) coalescing() {
	m := w.model("m", w.limits(llmqueue.KindRPM, llmqueue.KindTPM, llmqueue.KindConcurrent))
	m.coalesces = true
	w.ask("m", 22+w.IntN(14), 3, "fail", "panic", "limited", "passing")
	for _, q := range w.p.requests {
		q.key = []string{"", "x", "y", "z"}[w.IntN(4)]
	}
	w.meddle("m", llmqueue.KindRPM, llmqueue.KindTPM, llmqueue.KindConcurrent)
	w.close()
}

func (w *writer) backfill() {
	m := w.model("m", w.limits(llmqueue.KindRPM, llmqueue.KindTPM, llmqueue.KindConcurrent))
	m.backfills = true
	m.unchecked = true
	m.limits[1].Burst = 0
	m.limits[2].Amount += 2
	w.span = time.Duration(4+w.IntN(10)) * time.Second
	w.ask("m", 20+w.IntN(14), 6, "fail", "limited", "passing")
	for _, q := range w.p.requests {
		if w.oneIn(4) {
			q.estimate = w.usage(m.limits[1].Amount / 2)
		}
	}
	w.meddle("m")
	w.close()
}

func (w *writer) breaker() {
	m := w.model("m", w.limits(llmqueue.KindRPM, llmqueue.KindConcurrent))
	m.fuse = 2 + w.IntN(2)
	m.attempts = 2 + w.IntN(3)
	if w.oneIn(2) {
		m.endpoints = append(m.endpoints, plotEndpoint{"b", w.limits(llmqueue.KindConcurrent)})
	}
	if w.oneIn(3) {
		m.timeout = w.upTo(8 * time.Second)
	}
	w.ask("m", 20+w.IntN(12), 2, "passing", "passing", "fail", "fail", "permanent", "limited", "panic")
	w.meddle("m")
	w.close()
}

func (w *writer) fallback() {
	m := w.model("m", w.limits(llmqueue.KindRPM, llmqueue.KindConcurrent))
	m.fallback = []string{"n", "o"}
	m.attempts, m.unchecked = 1+w.IntN(2), w.oneIn(4)
	if w.oneIn(2) {
		m.fuse = 2
	}
	for _, id := range m.fallback {
		o := w.model(id, w.limits(llmqueue.KindRPM, llmqueue.KindTPM, llmqueue.KindConcurrent))
		o.limits[1].Burst = 0
		o.attempts = 1 + w.IntN(2)
		if w.oneIn(3) {
			o.fuse = 2
		}
		if w.oneIn(3) {
			o.maxQueued = 2
		}
	}
	w.ask("m", 14+w.IntN(10), 2, "passing", "passing", "fail", "quota", "limited", "streamed")
	w.ask("n", 4, 3, "passing", "fail")
	w.ask("o", 2, 3, "passing", "fail")
	w.meddle("m", llmqueue.KindRPM, llmqueue.KindConcurrent)
	w.meddle("n")
	w.close()
}

func (w *writer) observed() {
	kinds := []llmqueue.LimitKind{llmqueue.KindRPM, llmqueue.KindTPM}
	limits := w.limits(kinds...)
	for i := range limits {
		limits[i].Period = time.Minute
		limits[i].Amount *= 4
	}
	m := w.model("m", limits)
	m.learns, m.keepOnQuota = w.oneIn(2), w.oneIn(2)
	if m.learns && w.oneIn(2) {
		m.limits = nil
	}
	m.attempts = 2 + w.IntN(3)
	w.ask("m", 18+w.IntN(12), 3, "slow", "refused", "overloaded", "quota", "fatal", "passing")
	for _, q := range w.p.requests {
		for i := range q.fates {
			f := &q.fates[i]
			f.early = w.oneIn(3)
			if !w.oneIn(3) {
				continue
			}
			for j, k := range kinds {
				amount := limits[j].Amount - w.Int64N(limits[j].Amount/2)
				seen := llmqueue.ObservedLimit{Kind: k, Amount: amount, Remaining: w.Int64N(amount), Reset: w.upTo(time.Minute)}
				switch w.IntN(6) {
				case 0:
					seen.Remaining = -1
				case 1:
					seen.Reset = -time.Second // which makes no sense
				}
				f.limits = append(f.limits, seen)
			}
		}
	}
	w.meddle("m")
	w.close()
}

func (w *writer) shared() {
	w.p.shared = w.limits(llmqueue.KindRPM, llmqueue.KindTPM, llmqueue.KindConcurrent)
	w.p.shared[1].Burst = 0
	for _, id := range []string{"m", "n"} {
		m := w.model(id, w.limits(llmqueue.KindConcurrent))
		m.shares = true
	}
	w.ask("m", 12+w.IntN(6), 4, "fail", "limited", "passing")
	w.ask("n", 10+w.IntN(6), 4, "fail", "limited", "passing")
	w.meddle("m", llmqueue.KindConcurrent)
	w.meddle("n")
	w.close()
}
