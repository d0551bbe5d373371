package llmqueue_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/llmqueue/llmqueue"
)

// The stories of TestAdversary: endpoints that fail and recover, and requests that come
// meanwhile.

// fault is one way to fail.
type fault string

const (
	dies     fault = "dies"     // fails fast, in a way that may pass
	hangs    fault = "hangs"    // until the attempt's timeout
	refuses  fault = "refuses"  // 429, with the time to wait
	limps    fault = "limps"    // 429, and does not say how long
	loses    fault = "loses"    // its key: 401
	slackens fault = "slackens" // answers, fifty times slower
)

var faults = []fault{dies, hangs, refuses, limps, loses, slackens}

// spell is a time in which an endpoint has a fault.
type spell struct {
	from, to time.Duration
	fault    fault
}

// foe is an endpoint of a provider that is out of order at times.
type foe struct {
	name   string
	rpm    int64 // 0: no limit
	takes  time.Duration
	spells []spell // in order, apart from each other
	calls  []foeCall
}

// foeCall is one call of a foe.
type foeCall struct {
	id         string
	start, end time.Duration // end is 0 while it runs
	fault      fault         // "" when it was served
}

// dramaRequest is one request.
type dramaRequest struct {
	id                string
	at                time.Duration
	priority          int
	noWait            bool
	deadline, maxWait time.Duration // after at; 0: none

	refused  error         // by Submit, at once
	ends     int           // how often it ended, by events
	returns  int           // how often a Submit that waited came back
	ended    time.Duration // the last time
	err      error
	attempts []attemptSeen
}

type attemptSeen struct {
	at         *foe
	start, end time.Duration
}

// drama is one story.
type drama struct {
	seed     uint64
	observes bool // the processor observes, else it marks
	tight    bool // limits bind
	drains   bool // everything is served in the end, else Shutdown cuts it off
	attempts int
	foes     []*foe // endpoints of the model
	backups  []*foe // each the only endpoint of a fallback
	asks     []*dramaRequest
	over     time.Duration // when the last fault is

	begin  time.Time
	mu     sync.Mutex // guards calls, and what is seen of asks
	byID   map[string]*dramaRequest
	errors []string
}

const (
	dramaPeriod  = time.Minute // of every limit
	dramaTimeout = 10 * time.Second
	dramaBackoff = 10 * time.Second // MaxDelay
)

func writeDrama(seed uint64) *drama {
	w := rand.New(rand.NewPCG(seed, 17))
	upTo := func(d time.Duration) time.Duration {
		return time.Duration(1+w.Int64N(int64(d/time.Microsecond))) * time.Microsecond
	}
	d := &drama{seed: seed, observes: w.IntN(2) == 0, tight: w.IntN(2) == 0, drains: w.IntN(4) == 0, attempts: 4 + w.IntN(3), byID: map[string]*dramaRequest{}}
	d.drains = d.drains || !d.tight // where nothing binds, that takes no long story
	span := 20*time.Second + upTo(70*time.Second)
	newFoe := func(name string) *foe {
		f := &foe{name: name, takes: upTo(200 * time.Millisecond)}
		if d.tight {
			f.rpm = 4 + w.Int64N(9)
		}
		for at := upTo(span); w.IntN(3) > 0 && at < span; {
			s := spell{from: at, fault: faults[w.IntN(len(faults))]}
			s.to = s.from + min(upTo(time.Second)+upTo(span/2), span)
			f.spells = append(f.spells, s)
			d.over = max(d.over, s.to)
			at = s.to + upTo(span/2)
		}
		return f
	}
	for i := range 1 + w.IntN(4) {
		d.foes = append(d.foes, newFoe([]string{"m", "eu", "us", "asia"}[i]))
	}
	for i := range w.IntN(3) {
		d.backups = append(d.backups, newFoe(fmt.Sprint("f", i+1)))
	}
	n := 10 + w.IntN(70)
	if w.IntN(6) == 0 {
		n *= 5 // a busy one
	}
	for i := range n {
		a := &dramaRequest{id: fmt.Sprint(i), at: upTo(span), priority: w.IntN(3), noWait: w.IntN(2) == 0}
		if w.IntN(4) == 0 && i > 0 {
			a.at = d.asks[i-1].at // some come together
		}
		if !a.noWait && w.IntN(2) == 0 {
			a.deadline = upTo(40 * time.Second)
		}
		if w.IntN(5) == 0 {
			a.maxWait = upTo(20 * time.Second)
		}
		d.asks = append(d.asks, a)
		d.byID[a.id] = a
	}
	slices.SortStableFunc(d.asks, func(a, b *dramaRequest) int { return int(a.at - b.at) })
	return d
}

func (d *drama) now() time.Duration { return time.Since(d.begin) }

// faultAt is what is wrong with f, and until when.
func (f *foe) faultAt(at time.Duration) (fault, time.Duration) {
	for _, s := range f.spells {
		if at >= s.from && at < s.to {
			return s.fault, s.to
		}
	}
	return "", 0
}

// processor is how f is called.
func (d *drama) processor(f *foe) llmqueue.Processor[int, string] {
	return func(ctx context.Context, r llmqueue.Request[int]) (string, error) {
		d.mu.Lock()
		start := d.now()
		fault, until := f.faultAt(start)
		n, a := len(f.calls), d.byID[r.ID]
		f.calls = append(f.calls, foeCall{r.ID, start, 0, fault})
		k := len(a.attempts)
		a.attempts = append(a.attempts, attemptSeen{f, start, 0})
		d.mu.Unlock()
		err := d.call(ctx, f, fault, until-start)
		d.mu.Lock()
		defer d.mu.Unlock()
		f.calls[n].end = d.now()
		a.attempts[k].end = d.now()
		return f.name, err
	}
}

// errFault is any fault.
var errFault = errors.New("out of order")

func (d *drama) call(ctx context.Context, f *foe, is fault, left time.Duration) error {
	takes := f.takes
	switch is {
	case dies, refuses, limps, loses:
		takes /= 10
	case slackens:
		takes *= 50
	case hangs:
		<-ctx.Done()
		return ctx.Err()
	}
	if !nap(ctx, takes) {
		return ctx.Err()
	}
	says := llmqueue.Observation{Outcome: llmqueue.OutcomeServed}
	err := errFault
	switch is {
	case dies:
		says.Outcome, err = llmqueue.OutcomeRetryable, llmqueue.Retryable(err)
	case refuses:
		says.Delay = max(left-takes, time.Millisecond) // it says the truth
		says.Outcome, err = llmqueue.OutcomeRateLimited, llmqueue.RateLimited(err, says.Delay)
	case limps:
		says.Outcome, err = llmqueue.OutcomeRateLimited, llmqueue.RateLimited(err, 0)
	case loses:
		says.Outcome, err = llmqueue.OutcomeElsewhere, llmqueue.Elsewhere(err)
	default:
		err = nil
	}
	if !d.observes {
		return err
	}
	llmqueue.Observe(ctx, says)
	if err != nil {
		return errFault
	}
	return nil
}

// play runs the story. It has to be in a bubble.
func (d *drama) play(t *testing.T) {
	d.begin = time.Now()
	var fallback []string
	for _, f := range d.backups {
		fallback = append(fallback, f.name)
	}
	m := llmqueue.NewManager[int, string](llmqueue.WithSeed(d.seed+1), llmqueue.WithMargin(0), llmqueue.WithTimeout(dramaTimeout), llmqueue.WithHistory(0, 0),
		llmqueue.WithRetry(llmqueue.RetryPolicy{MaxAttempts: d.attempts, MaxDelay: dramaBackoff}))
	limits := func(f *foe) llmqueue.Option {
		if f.rpm == 0 {
			return llmqueue.WithUnlimited()
		}
		return llmqueue.WithLimits(llmqueue.RPM(f.rpm))
	}
	for _, f := range d.backups {
		_, err := m.Register(f.name, d.processor(f), limits(f))
		require.NoError(t, err)
	}
	opts := []llmqueue.Option{limits(d.foes[0]), llmqueue.WithObserver(d.note)}
	if fallback != nil {
		opts = append(opts, llmqueue.WithFallback(fallback...))
	}
	q, err := m.Register("m", d.processor(d.foes[0]), opts...)
	require.NoError(t, err)
	for _, f := range d.foes[1:] {
		require.NoError(t, q.AddEndpoint(f.name, d.processor(f), limits(f), llmqueue.WithMargin(0)))
	}
	var callers sync.WaitGroup
	for _, a := range d.asks {
		time.Sleep(a.at - d.now())
		d.submit(q, a, &callers)
	}
	time.Sleep(max(d.over-d.now(), 0))
	if d.tight {
		d.load(q, &callers)
	}
	ctx := t.Context()
	if !d.drains {
		ctx = ended()
	}
	_ = q.Shutdown(ctx) // first, so that its requests can still fall back
	_ = m.Shutdown(ctx)
	callers.Wait()
	for _, i := range m.InfoAll() {
		if i.Accepted != i.Completed+i.Failed+i.Canceled || i.Pending+i.Processing+i.Forwarded != 0 || i.Dropped != 0 {
			d.errorf("the counts of %s do not add up: %+v", i.ModelID, i)
		}
	}
}

// load keeps enough waiting for two periods after the last fault.
func (d *drama) load(q *llmqueue.Queue[int, string], callers *sync.WaitGroup) {
	d.over = d.now()
	all := 0
	for _, f := range d.foes {
		all += int(f.rpm)
	}
	for d.now() < d.over+2*dramaPeriod {
		for n := q.Len(); n < all+all/4; n++ {
			a := &dramaRequest{id: fmt.Sprint(len(d.asks)), at: d.now(), noWait: true}
			d.mu.Lock()
			d.asks, d.byID[a.id] = append(d.asks, a), a
			d.mu.Unlock()
			d.submit(q, a, callers)
			if n%8 == 7 {
				break // what a fallback takes must not come without end
			}
		}
		time.Sleep(2 * time.Second)
	}
}

func (d *drama) submit(q *llmqueue.Queue[int, string], a *dramaRequest, callers *sync.WaitGroup) {
	req := llmqueue.Request[int]{ID: a.id, Priority: a.priority, NoWait: a.noWait, MaxWait: a.maxWait}
	if a.noWait {
		_, err := q.Submit(context.Background(), req)
		d.answered(a, "", err)
		return
	}
	callers.Go(func() {
		ctx, cancel := context.Background(), func() {}
		if a.deadline > 0 {
			ctx, cancel = context.WithTimeout(ctx, a.deadline)
		}
		defer cancel()
		r, err := q.Submit(ctx, req)
		d.answered(a, r.Status, err)
	})
}

// answered notes what Submit said.
func (d *drama) answered(a *dramaRequest, is llmqueue.Status, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err != nil && is == "" {
		a.refused, a.err, a.ended = err, err, d.now()
	} else if !a.noWait {
		a.returns++
	}
}

// note keeps what the model's events say of the ends of requests.
func (d *drama) note(e llmqueue.Event) {
	switch e.Type {
	case llmqueue.EventCompleted, llmqueue.EventFailed, llmqueue.EventCanceled:
		d.mu.Lock()
		defer d.mu.Unlock()
		a := d.byID[e.RequestID]
		a.ends++
		a.err, a.ended = e.Err, e.Time.Sub(d.begin)
	}
}

func (d *drama) errorf(format string, args ...any) {
	d.errors = append(d.errors, fmt.Sprintf(format, args...))
}

// String tells the story.
func (d *drama) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "seed %d: observes %v, tight %v, %d attempts, the last fault ends at %v\n", d.seed, d.observes, d.tight, d.attempts, d.over)
	for i, f := range slices.Concat(d.foes, d.backups) {
		what := "endpoint"
		if i >= len(d.foes) {
			what = "fallback"
		}
		fmt.Fprintf(&b, "  %s %s: rpm %d, takes %v", what, f.name, f.rpm, f.takes)
		for _, s := range f.spells {
			fmt.Fprintf(&b, ", %s from %v to %v", s.fault, s.from, s.to)
		}
		fmt.Fprintf(&b, "; %d calls\n", len(f.calls))
	}
	return b.String()
}

// String tells what became of a request.
func (a *dramaRequest) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "request %s at %v (priority %d, NoWait %v", a.id, a.at, a.priority, a.noWait)
	if a.deadline > 0 {
		fmt.Fprintf(&b, ", deadline %v", a.at+a.deadline)
	}
	if a.maxWait > 0 {
		fmt.Fprintf(&b, ", waits until %v at most", a.at+a.maxWait)
	}
	b.WriteString(")")
	for _, t := range a.attempts {
		f, _ := t.at.faultAt(t.start)
		fmt.Fprintf(&b, ", at %s %s from %v to %v", t.at.name, f, t.start, t.end)
	}
	fmt.Fprintf(&b, ", ended %v: %v", a.ended, a.err)
	return b.String()
}
