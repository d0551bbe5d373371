// Package limitertest is the suite that every llmqueue.SharedLimiter must pass: the one
// of the root package, those that hold limits outside the process, and yours.
//
//	func TestConformance(t *testing.T) {
//		limitertest.Run(t, func(t *testing.T, limits ...llmqueue.Limit) func() llmqueue.SharedLimiter {
//			store := newStore(t)
//			return func() llmqueue.SharedLimiter { return newLimiter(store, limits...) }
//		})
//	}
//
// It works in real time, with periods of a second, and takes about half a minute.
package limitertest

import (
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/llmqueue/llmqueue"
)

// New makes a set of limits that nothing has drawn from. Each call of what it returns
// gives a limiter on that set, as another process would have it; where a set belongs
// to one process it is the same one each time.
type New func(t *testing.T, limits ...llmqueue.Limit) (process func() llmqueue.SharedLimiter)

// Run runs the suite. Its tests run in parallel.
func Run(t *testing.T, make New) {
	for _, c := range []struct {
		name string
		test func(*testing.T, New)
	}{
		{"never more than the amount", neverMore},
		{"never more slots", neverMoreSlots},
		{"all or none", allOrNone},
		{"a refund makes room", refund},
		{"an overrun is debt", overrun},
		{"a late settlement changes nothing but the overrun", lateSettle},
		{"undo is as if it had never been", undo},
		{"a slot comes free once", slotOnce},
		{"members of a process take turns", turns},
		{"who withdraws holds up nobody", withdraw},
		{"who leaves holds up nobody", leave},
		{"the big is not starved", big},
		{"none is starved", fair},
		{"what can never fit", never},
		{"wrong limits", wrong},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			c.test(t, make)
		})
	}
}

// patience is how long something that has to happen may take.
const patience = 20 * time.Second

// turn numbers arrivals, as queues do.
var turn atomic.Uint64

// queue stands for a queue: it comes back when it is woken, or when it was told to.
type queue struct {
	t      *testing.T
	member llmqueue.SharedMember
	woken  chan struct{}
	turn   uint64
}

func join(t *testing.T, l llmqueue.SharedLimiter) *queue {
	t.Helper()
	q := &queue{t: t, woken: make(chan struct{}, 1)}
	m, err := l.Join("model", func() {
		select {
		case q.woken <- struct{}{}:
		default:
		}
	})
	if err != nil {
		t.Fatalf("a queue cannot join: %v", err)
	}
	q.member = m
	t.Cleanup(m.Leave)
	return q
}

// try asks once.
func (q *queue) try(u llmqueue.Usage) (llmqueue.SharedReservation, time.Time) {
	if q.turn == 0 {
		q.turn = turn.Add(1)
	}
	r, at := q.member.Reserve(time.Now(), u, q.turn)
	if r != nil {
		q.turn = 0
	}
	return r, at
}

// take waits for a reservation, nil when over comes first.
func (q *queue) take(u llmqueue.Usage, over <-chan struct{}) llmqueue.SharedReservation {
	for {
		r, at := q.try(u)
		if r != nil {
			return r
		}
		var due <-chan time.Time
		if !at.IsZero() {
			due = time.After(time.Until(at))
		}
		select {
		case <-q.woken:
		case <-due:
		case <-over:
			q.withdraw()
			return nil
		}
	}
}

// must takes, or fails the test with what a user would see.
func (q *queue) must(u llmqueue.Usage, complaint string) llmqueue.SharedReservation {
	q.t.Helper()
	over := make(chan struct{})
	timer := time.AfterFunc(patience, func() { close(over) })
	defer timer.Stop()
	r := q.take(u, over)
	if r == nil {
		q.t.Fatalf("after %v: %s", patience, complaint)
	}
	return r
}

// mustNot sees to it that nothing is granted for a while, and withdraws.
func (q *queue) mustNot(u llmqueue.Usage, complaint string) {
	q.t.Helper()
	over := make(chan struct{})
	timer := time.AfterFunc(300*time.Millisecond, func() { close(over) })
	defer timer.Stop()
	if r := q.take(u, over); r != nil {
		q.t.Fatal(complaint)
	}
}

func (q *queue) withdraw() {
	q.member.Withdraw(time.Now())
	q.turn = 0
}

func tokens(n int64) llmqueue.Usage { return llmqueue.Usage{InputTokens: n} }

// end settles and releases.
func end(r llmqueue.SharedReservation, u llmqueue.Usage) {
	now := time.Now()
	r.Settle(now, u)
	r.Release(now)
}

func allOrNone(t *testing.T, make New) {
	process := make(t, llmqueue.RPM(10).Per(time.Hour), llmqueue.TPM(100).Per(time.Hour))
	a, b := join(t, process()), join(t, process())
	full := a.must(tokens(100), "a request of all tokens does not start")
	for range 5 {
		b.mustNot(tokens(1), "a request starts although the tokens are used up")
	}
	end(full, tokens(0))
	for i := range 9 {
		end(b.must(tokens(1), "refused requests took part of the limit on requests"), tokens(1))
		if i == 8 {
			a.mustNot(tokens(1), "an eleventh request starts under a limit of 10")
		}
	}
}

func refund(t *testing.T, make New) {
	process := make(t, llmqueue.TPM(100).Per(time.Hour))
	a, b := join(t, process()), join(t, process())
	r := a.must(tokens(100), "the first request does not start")
	b.mustNot(tokens(90), "a request starts although the tokens are used up")
	r.Settle(time.Now(), tokens(50))
	r.Settle(time.Now(), tokens(10))
	end(b.must(tokens(90), "tokens that were reserved and not used do not come back"), tokens(90))
	r.Settle(time.Now(), tokens(10))
	a.mustNot(tokens(1), "a settlement that repeats an earlier one frees tokens again")
	r.Release(time.Now())
}

func overrun(t *testing.T, make New) {
	process := make(t, llmqueue.TPM(100).Per(time.Second))
	a := join(t, process()) // other processes may hear of it a moment later
	end(a.must(tokens(10), "the first request does not start"), tokens(190))
	before := time.Now()
	end(a.must(tokens(10), "nothing starts after an overrun"), tokens(10))
	if waited := time.Since(before); waited < 500*time.Millisecond {
		t.Fatalf("a request starts %v after an overrun used up the limit for a second", waited)
	}
}

func lateSettle(t *testing.T, make New) {
	process := make(t, llmqueue.TPM(100).Per(time.Second))
	a, b := join(t, process()), join(t, process())
	old := a.must(tokens(100), "the first request does not start")
	r := b.must(tokens(60), "nothing starts when the window has passed")
	old.Settle(time.Now(), tokens(1))
	a.mustNot(tokens(90), "a refund of a window that has passed makes room in this one")
	end(r, tokens(60))
	end(old, tokens(180)) // 80 more than it reserved: charged now
	before := time.Now()
	end(a.must(tokens(30), "nothing starts after an overrun"), tokens(0))
	if waited := time.Since(before); waited < 300*time.Millisecond {
		t.Fatalf("a request starts %v after an overrun of an old one used up the limit", waited)
	}
}

func undo(t *testing.T, make New) {
	process := make(t, llmqueue.RPM(1).Per(time.Hour), llmqueue.Concurrent(1))
	a, b := join(t, process()), join(t, process())
	for range 3 {
		a.must(tokens(1), "a reservation that was undone still counts").Undo(time.Now())
	}
	a.withdraw()
	end(b.must(tokens(1), "a reservation that another process has undone still counts"), tokens(1))
	a.mustNot(tokens(1), "a second request starts under a limit of 1")
}

func slotOnce(t *testing.T, make New) {
	process := make(t, llmqueue.Concurrent(2))
	a, b := join(t, process()), join(t, process())
	r := a.must(tokens(1), "the first request does not start")
	other := b.must(tokens(1), "the second request does not start")
	a.mustNot(tokens(1), "a third request runs under a limit of 2")
	r.Release(time.Now())
	r.Release(time.Now())
	third := b.must(tokens(1), "a slot does not come free")
	a.mustNot(tokens(1), "a slot came free twice")
	end(other, tokens(1))
	end(third, tokens(1))
	end(a.must(tokens(1), "slots do not come free"), tokens(1))
}

func turns(t *testing.T, make New) {
	process := make(t, llmqueue.Concurrent(1))
	l := process()
	first, second, third := join(t, l), join(t, l), join(t, l)
	r := first.must(tokens(1), "the first request does not start")
	second.turn, third.turn = turn.Add(1), turn.Add(1)
	for _, q := range []*queue{third, second} {
		if got, _ := q.try(tokens(1)); got != nil {
			t.Fatal("a second request runs under a limit of 1")
		}
	}
	end(r, tokens(1))
	got := third.inBackground(newOver(t))
	r = second.must(tokens(1), "who came first does not get the slot")
	select {
	case <-got:
		t.Fatal("who came later has a slot as well, or has it first")
	default:
	}
	end(r, tokens(1))
	select {
	case r := <-got:
		end(r, tokens(1))
	case <-time.After(patience):
		t.Fatal("who came later never gets the slot")
	}
}

func newOver(t *testing.T) chan struct{} {
	over := make(chan struct{})
	t.Cleanup(func() { close(over) })
	return over
}

// inBackground takes a slot when there is one.
func (q *queue) inBackground(over <-chan struct{}) <-chan llmqueue.SharedReservation {
	got := make(chan llmqueue.SharedReservation, 1)
	go func() {
		if r := q.take(tokens(1), over); r != nil {
			got <- r
		}
	}()
	return got
}

func withdraw(t *testing.T, make New) {
	process := make(t, llmqueue.TPM(100).Per(time.Hour))
	a, b := join(t, process()), join(t, process())
	end(a.must(tokens(50), "the first request does not start"), tokens(50))
	if r, _ := a.try(tokens(100)); r != nil {
		t.Fatal("150 tokens start under a limit of 100")
	}
	b.mustNot(tokens(60), "110 tokens start under a limit of 100")
	a.withdraw()
	end(b.must(tokens(50), "who gave its place up holds others up"), tokens(50))
}

func leave(t *testing.T, make New) {
	process := make(t, llmqueue.TPM(100).Per(time.Hour), llmqueue.Concurrent(1))
	a, b, c := join(t, process()), join(t, process()), join(t, process())
	r := a.must(tokens(50), "the first request does not start")
	a.member.Leave()
	if r, _ := b.try(tokens(100)); r != nil {
		t.Fatal("a second request runs under a limit of 1")
	}
	b.member.Leave()
	c.mustNot(tokens(1), "a slot came free because the member that held it left")
	end(r, tokens(20))
	end(c.must(tokens(80), "a reservation does not settle after its member left, or who left holds others up"), tokens(80))
}

func never(t *testing.T, make New) {
	process := make(t, llmqueue.RPM(10), llmqueue.TPM(100), llmqueue.ITPM(50), llmqueue.OTPM(40), llmqueue.Concurrent(3))
	q := join(t, process())
	for _, c := range []struct {
		u    llmqueue.Usage
		kind llmqueue.LimitKind
	}{
		{llmqueue.Usage{InputTokens: 50, OutputTokens: 40}, ""},
		{llmqueue.Usage{InputTokens: 51}, llmqueue.KindITPM},
		{llmqueue.Usage{OutputTokens: 41}, llmqueue.KindOTPM},
		{llmqueue.Usage{InputTokens: 61, OutputTokens: 40}, llmqueue.KindTPM},
	} {
		limit, exceeds := q.member.Exceeds(c.u)
		if exceeds != (c.kind != "") || limit.Kind != c.kind {
			t.Errorf("Exceeds(%+v) = %v, %v; want kind %q", c.u, limit, exceeds, c.kind)
		}
	}
	if got := q.member.Share(llmqueue.Usage{InputTokens: 30, OutputTokens: 10}); got != 0.6 {
		t.Errorf("Share of 30 of 50 input, 10 of 40 output tokens and 1 of 10 requests is %v, want 0.6", got)
	}
	now := time.Now()
	if at := q.member.Forecast(now, 0, llmqueue.Usage{}, tokens(1)); at.Before(now) {
		t.Errorf("a request is expected to start %v ago", now.Sub(at))
	}
	infos := q.member.Limits(now)
	if len(infos) != 5 || infos[4].Limit.Kind != llmqueue.KindConcurrent || infos[0].Limit != llmqueue.RPM(10) {
		t.Errorf("Limits shows %+v, want the five limits as they were given", infos)
	}
}

func wrong(t *testing.T, make New) {
	for name, limits := range map[string][]llmqueue.Limit{
		"no limits":       nil,
		"an amount of 0":  {llmqueue.RPM(0)},
		"twice the same":  {llmqueue.RPM(1), llmqueue.RPM(2)},
		"an unknown kind": {{Kind: "calls", Amount: 1}},
	} {
		if _, err := make(t, limits...)().Join("model", func() {}); !errors.Is(err, llmqueue.ErrInvalidConfiguration) {
			t.Errorf("%s: Join gives %v, want ErrInvalidConfiguration", name, err)
		}
	}
}
