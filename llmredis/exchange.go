package llmredis

import (
	"context"
	"crypto/rand"
	"fmt"
	"math"
	"time"

	"github.com/redis/go-redis/v9"
)

const (
	// settling is how long a set that was found new grants nothing: processes that know
	// an older one, which the server has lost, say so meanwhile.
	settling = time.Second
	// grace is how long who is first in line may take to come once it was told to.
	grace = 200 * time.Millisecond
	// watch is how often a process that waits keeps its place and looks whether a
	// message was lost.
	watch = 2 * time.Second
	// remembered is how long the server remembers a set that nobody uses, beyond its
	// longest period.
	remembered = 24 * time.Hour
	// most is the largest number of requests that a lease is for.
	most = 4096
	// changesAtOnce bounds what one exchange tells.
	changesAtOnce = 512
)

// A change is n more, or less, of what is charged as of then: milliseconds of the
// server's clock, or at most zero before the exchange.
type change struct {
	at int64
	n  amounts
}

// identity is how the server knows this process. Each exchange has a number, so that
// one that is repeated changes nothing.
type identity struct {
	id  string
	seq int64
	gen string
	rev int64
}

func newIdentity() identity { return identity{id: rand.Text()} }

// An exchange is one message to the script.
type exchange struct {
	mode               int       // 0 tells, 1 asks and waits in line, 2 asks and does not wait
	sent               time.Time // the first time; what it tells is dated before
	need, want         amounts
	slotNeed, slotWant int64
	busy, idle         int64
	leaves, cut, bye   bool
	seen               time.Time // of the latest reply
	heard              bool
	newgen             string
	changes, overs     []change
	spends             []*spend
	lates              []*late
}

// run exchanges messages until nobody uses the set any more.
func (s *set) run(ctx context.Context) {
	defer close(s.over)
	defer s.stop()
	who := newIdentity()
	go s.listen(ctx)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		s.mu.Lock()
		x, wait := s.due(time.Now())
		s.mu.Unlock()
		if x == nil {
			timer.Reset(wait)
			select {
			case <-s.kicked:
			case <-timer.C:
			}
			continue
		}
		who.seq++
		reply, ok := s.converse(ctx, timer, &who, x)
		s.mu.Lock()
		switch {
		case ok && !x.bye:
			s.heed(x, &who, reply)
		default:
			// It left, or it gave up what it had to say: should somebody join now, the
			// server sees another process.
			who.id, who.seq = rand.Text(), 0
			s.asking, s.look = false, true
		}
		s.mu.Unlock()
		if x.bye && s.limiter.forget(s) {
			return
		}
	}
}

// due gives the exchange that is due now, or how long nothing is. Callers hold mu.
func (s *set) due(now time.Time) (x *exchange, wait time.Duration) {
	s.expire(now)
	holds := s.slots > 0 && s.busy+s.idle > 0
	next := now.Add(time.Hour)
	before := func(t time.Time) bool {
		if t.IsZero() {
			return false
		}
		if t.After(now) {
			if t.Before(next) {
				next = t
			}
			return false
		}
		return true
	}
	asks := len(s.waiting) > 0 && s.local == nil && before(s.askAt)
	ahead := s.prefetch && s.local == nil
	beats := holds && before(s.beatAt)
	tells := before(s.tellAt) || s.inLine && len(s.waiting) == 0
	if len(s.leases) > 0 {
		before(s.leases[0].until)
	}
	switch {
	case s.unused():
		s.giveAllBack()
		return s.exchange(now, 0, true), 0
	case asks:
		return s.exchange(now, 1, false), 0
	case ahead:
		return s.exchange(now, 2, false), 0
	case beats, tells, s.look:
		return s.exchange(now, 0, false), 0
	}
	return nil, next.Sub(now)
}

// exchange makes the message of all there is to tell. Callers hold mu.
func (s *set) exchange(now time.Time, mode int, bye bool) *exchange {
	x := &exchange{mode: mode, sent: now, bye: bye, newgen: rand.Text(), seen: s.seenAt, heard: s.heard}
	n := s.demand(now)
	switch {
	case mode == 1 && s.fits(s.waiting[0].need):
		x.slotNeed, x.slotWant = 1, n // nothing but a slot is missing
		s.idle = 0
	case mode == 1:
		// All or nothing is asked for, so all is given back first.
		s.giveAllBack()
		s.idle = 0
		x.need = s.waiting[0].need
		x.want = x.need.plus(s.average.times(n - 1))
		x.slotNeed, x.slotWant = 1, n
	case mode == 2:
		x.need, x.want = s.average, s.average.times(n)
		if s.idle == 0 {
			x.slotWant = n
		}
	case s.others > 0:
		s.spare(now)
	case now.Sub(s.usedAt) > s.lease:
		s.idle = 0
	}
	if s.slots == 0 {
		x.slotNeed, x.slotWant = 0, 0
	} else {
		x.busy, x.idle = s.busy, s.idle
	}
	s.collect(now, x)
	x.leaves = s.inLine && len(s.waiting) == 0
	x.cut = !s.failing.IsZero()
	s.tellAt, s.look, s.prefetch = time.Time{}, false, false
	if len(s.spends)+len(s.returned) > 0 || len(s.lates) > 0 && s.local == nil {
		s.tellAt = now
	}
	s.asking = mode > 0
	return x
}

// spare gives back what is of no use here when other processes wait. Callers hold mu.
func (s *set) spare(now time.Time) {
	if len(s.waiting) > 0 {
		return
	}
	s.idle = 0
	if now.Sub(s.usedAt) > min(50*time.Millisecond, s.lease/4) {
		s.giveAllBack()
	}
}

// collect puts into x what was used, settled and given back. Callers hold mu.
func (s *set) collect(now time.Time, x *exchange) {
	age := func(t time.Time) int64 { return -now.Sub(t).Milliseconds() }
	s.using = nil
	n := min(len(s.spends), changesAtOnce)
	x.spends, s.spends = s.spends[:n:n], s.spends[n:]
	for _, u := range x.spends {
		u.inFlight = true
		u.at = age(u.last)
		var sum amounts
		for _, p := range u.from {
			if !p.n.isZero() {
				x.changes = append(x.changes, change{p.ends, amounts{}.minus(p.n)})
				sum = sum.plus(p.n)
			}
		}
		x.changes = append(x.changes, change{u.at, sum})
		u.from = nil
	}
	var later []*spend
	for _, u := range s.adjusted {
		if u.at == 0 && !u.inFlight || len(x.changes) > 3*changesAtOnce {
			later = append(later, u) // not told itself yet
			continue
		}
		x.changes = append(x.changes, change{u.at, u.delta})
		if !u.add.isZero() {
			x.overs = append(x.overs, change{u.at, u.add})
		}
		u.delta, u.add, u.changed = amounts{}, amounts{}, false
	}
	s.adjusted = later
	n = min(len(s.returned), changesAtOnce)
	x.changes = append(x.changes, s.returned[:n]...)
	s.returned = append([]change(nil), s.returned[n:]...)
	if s.local == nil {
		n = min(len(s.lates), changesAtOnce)
		x.lates, s.lates = s.lates[:n:n], s.lates[n:]
		for _, l := range x.lates {
			l.told = true
			x.changes = append(x.changes, change{age(l.last), l.n})
		}
	}
}

// args is x as the script reads it. ahead is how far the server's clock is ahead.
func (s *set) args(x *exchange, who *identity, ahead time.Duration) []any {
	silent := int64(0)
	if x.heard {
		silent = time.Since(x.seen).Milliseconds()
	}
	args := make([]any, 0, 64)
	args = append(args, who.id, who.seq, who.gen, who.rev, silent, x.newgen, s.channel(), s.mailbox,
		x.mode, bit(x.leaves), bit(x.cut && s.limiter.options.LocalShare > 0), bit(x.bye),
		s.slots, x.busy, x.idle, x.slotNeed, x.slotWant, s.ttl.Milliseconds(),
		s.lease.Milliseconds(), settling.Milliseconds(), grace.Milliseconds(), watch.Milliseconds(),
		(s.longest + remembered).Milliseconds())
	put := func(n amounts) {
		for _, v := range n {
			args = append(args, v)
		}
	}
	put(x.need)
	put(x.want)
	args = append(args, len(s.rules))
	for _, r := range s.rules {
		args = append(args, r.kind+1, r.limit.Amount, r.burst, r.hold, r.bucket, r.name)
		days := r.midnights(x.sent.Add(ahead))
		args = append(args, len(days))
		for _, d := range days {
			args = append(args, d)
		}
	}
	for _, list := range [][]change{x.changes, x.overs} {
		args = append(args, len(list))
		for _, c := range list {
			args = append(args, c.at)
			put(c.n)
		}
	}
	return args
}

func bit(b bool) int {
	if b {
		return 1
	}
	return 0
}

// demand is for how many requests to ask: what is used within a lease at the rate
// since the latest grant, growing by steps. Callers hold mu.
func (s *set) demand(now time.Time) int64 {
	elapsed := max(now.Sub(s.grantedAt), time.Millisecond)
	rate := float64(s.taken) / elapsed.Seconds()
	return min(max(min(2*s.taken, int64(math.Ceil(rate*s.lease.Seconds()))), 1), most)
}

func (s *set) channel() string { return "{" + s.tag + "}:c" }

var script = redis.NewScript(source)

// converse sends x until it is answered. It reports false when it gave up, as it does
// soon when nobody uses the set any more.
func (s *set) converse(ctx context.Context, timer *time.Timer, who *identity, x *exchange) (reply []any, ok bool) {
	tag := "{" + s.tag + "}"
	keys := []string{tag, tag + ":p", tag + ":w", tag + ":l"}
	for attempt := 0; ; attempt++ {
		got, err := script.Run(ctx, s.limiter.client, keys, s.args(x, who, s.ahead)...).Slice()
		if err == nil && len(got) < 2 {
			err = fmt.Errorf("the script answered %v", got)
		}
		if err == nil {
			s.reached(x)
			if got[0] == "midnight" {
				// This machine's clock is days off.
				s.ahead = time.UnixMilli(number(got, 1)).Sub(x.sent)
				continue
			}
			return got, true
		}
		at, unused := s.unreachable(err)
		if unused && attempt >= 3 {
			return nil, false
		}
		x.cut = true
		wait := min(20*time.Millisecond<<min(attempt, 5), 250*time.Millisecond)
		if d := time.Until(at); !at.IsZero() && d > 0 && d < wait {
			wait = d
		}
		timer.Reset(wait)
		<-timer.C
	}
}

// unreachable notes that Redis did not answer, and says when the local share will be
// in force.
func (s *set) unreachable(err error) (at time.Time, unused bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	if s.failing.IsZero() {
		s.failing = now
	}
	if s.down.IsZero() {
		s.down = now
		does := "requests wait"
		if share := s.limiter.options.LocalShare; share > 0 {
			does = fmt.Sprintf("requests wait, and go on with %v of the limits after %v", share, s.fallbackAfter())
		}
		s.limiter.options.Logger.Warn("llmredis: Redis cannot be reached: "+does, "set", s.tag, "error", s.limiter.redact(err))
	}
	return s.startFallback(now), s.unused()
}

// reached notes that Redis answered x.
func (s *set) reached(x *exchange) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failing.IsZero() {
		return
	}
	now := time.Now()
	if !s.down.IsZero() {
		s.limiter.options.Logger.Info("llmredis: Redis is back", "set", s.tag, "after", now.Sub(s.down).Round(time.Millisecond))
		s.down = time.Time{}
		s.endFallback(now)
		s.look = true // tells what was used meanwhile
	}
	if x.cut {
		s.failing = time.Time{}
	}
}

// heed takes over what the server answered. Callers hold mu.
func (s *set) heed(x *exchange, who *identity, reply []any) {
	now := time.Now()
	s.asking = false
	status, _ := reply[0].(string)
	switch status {
	case "ok":
	default: // lost, unknown, old
		if status == "lost" {
			s.limiter.options.Logger.Warn("llmredis: Redis has lost what was granted: limits count as used up for one period", "set", s.tag)
		}
		s.forgetAll(x)
		*who = newIdentity()
		s.ask(now)
		s.look = true
		return
	}
	fresh, then := number(reply, 1), number(reply, 2)
	who.gen, _ = reply[3].(string)
	who.rev = number(reply, 4)
	for _, u := range x.spends {
		u.at, u.inFlight = then+u.at, false
	}
	clock := func(ms int64) time.Time { return now.Add(time.Duration(ms-fresh) * time.Millisecond) }
	s.others, s.part, s.inUse = number(reply, 13), number(reply, 14), number(reply, 15)
	s.heard, s.seenAt = true, now
	for i := range s.rules {
		s.seen[i] = figures{used: number(reply, 16+2*i), full: time.Time{}}
		if full := number(reply, 17+2*i); full > fresh {
			s.seen[i].full = clock(full)
		}
	}
	s.base, s.baseAt = fresh, now
	if s.slots > 0 {
		s.slotsUntil = x.sent.Add(s.ttl * 2 / 3)
		s.beatAt = x.sent.Add(s.ttl / 3)
	}
	switch {
	case x.mode == 1:
		s.inLine = number(reply, 5) == 0
	case x.leaves:
		s.inLine = false
	}
	if x.mode == 0 {
		if len(s.waiting) > 0 && s.askAt.IsZero() && s.local == nil {
			s.ask(now)
		}
		return
	}
	if number(reply, 5) == 0 {
		if x.mode == 1 {
			s.askAt = clock(number(reply, 12) + 1)
			if len(s.waiting) > 0 && s.waiting[0].need != x.need && !x.need.isZero() {
				s.ask(now)
			}
		} else {
			s.noAhead = true
		}
		return
	}
	s.askAt = time.Time{}
	l := &lease{ends: number(reply, 10)}
	// The clocks may run apart by 1 in 1000.
	d := time.Duration(l.ends-then) * time.Millisecond
	l.until = x.sent.Add(d - d/1000)
	for k := range l.left {
		l.left[k] = number(reply, 6+k)
	}
	if len(s.rules) > 0 && !l.left.isZero() {
		s.leases = append(s.leases, l)
	}
	s.idle += number(reply, 11)
	s.usedAt, s.noAhead = now, false
	s.taken, s.grantedAt = 0, now
	s.expire(now)
	if len(s.waiting) > 0 {
		s.waiting[0].wake()
	}
}

// forgetAll drops what the server does not know any more. Callers hold mu.
func (s *set) forgetAll(x *exchange) {
	s.epoch++
	s.spends, s.adjusted, s.returned, s.using = nil, nil, nil, nil
	s.leases, s.idle = nil, 0
	s.inLine = false
	for _, l := range x.lates {
		l.told = false
	}
	s.lates = append(x.lates, s.lates...)
}

func number(reply []any, i int) int64 {
	if i >= len(reply) {
		return 0
	}
	n, _ := reply[i].(int64)
	return n
}
