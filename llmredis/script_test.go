package llmredis

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/llmqueue/llmqueue"
)

// virtual is the script with the time as its last argument.
var virtual = redis.NewScript(func() string {
	const reading = "local wall = clock[1] * 1000 + math.floor(clock[2] / 1000)"
	if !strings.Contains(source, reading) {
		panic("the script reads its clock in another way")
	}
	return strings.Replace(source, reading, "local wall = tonumber(ARGV[#ARGV])", 1)
}())

// A world is a set of limits with processes that use it, in virtual time, and the model
// that knows every charge one by one.
type world struct {
	t      *testing.T
	client *redis.Client
	set    *set
	random *rand.Rand
	now    int64 // milliseconds
	begun  int64
	scale  int64 // of time that passes
	procs  []*process

	crashed []*process

	charges []*modelled
	held    map[*process]slotsHeld
}

type slotsHeld struct{ n, until int64 }

// modelled is a charge as it truly is: a lease from its grant on, what was used from
// the lease as of its use.
type modelled struct {
	at   int64
	n    amounts
	ends int64 // of a lease: as of when it is charged
}

type process struct {
	who     identity
	leases  []*modelled
	used    []*usedUp
	changes []change
	overs   []change
	busy    int64
	waits   bool
	need    amounts
}

// usedUp is part of a lease that was used and is not told yet.
type usedUp struct {
	from int64
	at   int64
	n    amounts
}

func newWorld(t *testing.T, client *redis.Client, seed uint64, limits ...llmqueue.Limit) *world {
	w := &world{
		t: t, client: client, random: rand.New(rand.NewPCG(seed, 7)), scale: 1, now: 1_700_000_000_000,
		held: make(map[*process]slotsHeld),
	}
	w.set = &set{limiter: New(client, "x", limits...), tag: fmt.Sprintf("%s:%d", fresh(t), seed), ttl: 5 * time.Second, mailbox: "m"}
	w.set.rules, w.set.slots, w.set.lease = rules(limits, -1)
	for _, r := range w.set.rules {
		w.set.longest = max(w.set.longest, time.Duration(r.hold)*time.Millisecond)
	}
	for range 4 {
		w.procs = append(w.procs, &process{who: newIdentity()})
	}
	return w
}

// send runs the script.
func (w *world) send(p *process, x *exchange) []any {
	x.sent = time.UnixMilli(w.now)
	tag := "{" + w.set.tag + "}"
	args := append(w.set.args(x, &p.who, 0), strconv.FormatInt(w.now, 10))
	reply, err := virtual.Run(context.Background(), w.client, []string{tag, tag + ":p", tag + ":w", tag + ":l"}, args...).Slice()
	require.NoError(w.t, err)
	return reply
}

// exchange tells everything that p has to tell and asks for need, if that is not zero.
func (w *world) exchange(p *process, x *exchange) []any {
	x.changes, x.overs = p.changes, p.overs
	for _, u := range p.used {
		x.changes = append(x.changes, change{u.from, amounts{}.minus(u.n)}, change{u.at - w.now, u.n})
	}
	p.changes, p.overs, p.used = nil, nil, nil
	x.busy = p.busy
	p.who.seq++
	x.newgen = "g" + strconv.FormatInt(w.now, 10)
	reply := w.send(p, x)
	for range w.random.IntN(3) {
		// The reply is lost, and the exchange repeated: nothing changes, however late.
		w.now += w.random.Int64N(3)
		again := w.send(p, x)
		reply[1] = again[1]
		require.Equal(w.t, reply, again, "a repeated exchange is answered differently")
	}
	require.Equal(w.t, "ok", reply[0])
	p.who.gen, p.who.rev = reply[3].(string), number(reply, 4)
	if number(reply, 5) == 1 {
		lease := &modelled{at: number(reply, 2), ends: number(reply, 10)}
		for k := range lease.n {
			lease.n[k] = number(reply, 6+k)
		}
		w.charges = append(w.charges, lease)
		p.leases = append(p.leases, lease)
	}
	p.busy += number(reply, 11)
	w.held[p] = slotsHeld{p.busy, number(reply, 2) + w.set.ttl.Milliseconds()}
	return reply
}

// sum is what counts in the rule's window, if charges leave late by so much.
func (w *world) sum(r *rule, now, late int64) (sum int64) {
	for _, c := range w.charges {
		at := c.at
		if c.ends > 0 {
			at = c.ends
		}
		switch {
		case r.limit.Resets == nil && at+r.hold+late <= now:
		case r.limit.Resets != nil && !sameDay(r, at, now):
		default:
			sum += c.n[r.kind]
		}
	}
	return sum
}

func sameDay(r *rule, a, b int64) bool {
	ma, mb := r.midnights(time.UnixMilli(a)), r.midnights(time.UnixMilli(b))
	next := func(ms []int64, at int64) int64 {
		for _, m := range ms {
			if m > at {
				return m
			}
		}
		return 0
	}
	return next(ma, a) == next(mb, b)
}

// holds checks the limits after a grant.
func (w *world) holds(what string) {
	for i := range w.set.rules {
		r := &w.set.rules[i]
		require.LessOrEqual(w.t, w.sum(r, w.now, 0), r.limit.Amount, "%s: %s is exceeded", what, r.limit)
	}
	var held int64
	for _, h := range w.held {
		if h.until > w.now {
			held += h.n
		}
	}
	if w.set.slots > 0 {
		require.LessOrEqual(w.t, held, w.set.slots, "%s: more slots are held than there are", what)
	}
}

// need is what a request takes.
func (w *world) request() amounts {
	i, o := w.random.Int64N(40), w.random.Int64N(20)
	return amounts{1, i + o, i, o}
}

// step does one thing.
func (w *world) step() {
	r := w.random
	if r.IntN(3) > 0 {
		w.now += r.Int64N(30 * w.scale)
	}
	if r.IntN(200) == 0 {
		w.now += r.Int64N(3000 * w.scale)
	}
	i := r.IntN(len(w.procs))
	p := w.procs[i]
	if r.IntN(150) == 0 {
		w.crashed = append(w.crashed, p)
		w.procs[i] = &process{who: newIdentity()} // it crashed; another one starts
		return
	}
	switch r.IntN(8) {
	case 0, 1, 2: // asks, as who finds no room does: gives back what it has
		for _, l := range p.leases {
			p.changes = append(p.changes, change{l.ends, amounts{}.minus(l.n)})
			l.n = amounts{}
		}
		p.leases = nil
		if !p.waits {
			p.need = w.request()
		}
		n := 1 + r.Int64N(6)
		x := &exchange{mode: 1, need: p.need, want: p.need.plus(w.request().times(n)), slotNeed: 1, slotWant: n}
		if w.set.slots == 0 {
			x.slotNeed, x.slotWant = 0, 0
		}
		before := p.busy
		reply := w.exchange(p, x)
		granted := number(reply, 5) == 1
		p.waits = !granted
		if granted {
			w.holds("after a grant")
			return
		}
		if number(reply, 13) == 0 {
			w.justified(x.need, reply)
			if comes := number(reply, 12); comes < number(reply, 2)+watch.Milliseconds() {
				// Nothing happens until then: it is told the right time.
				w.now = comes
				p.busy = before
				reply := w.exchange(p, &exchange{mode: 1, need: x.need, want: x.want, slotNeed: x.slotNeed, slotWant: x.slotWant})
				require.EqualValues(w.t, 1, number(reply, 5), "it comes when it was told to, and is refused again")
				p.waits = false
				w.holds("at the instant that was told")
			}
		}
	case 3: // tells
		w.exchange(p, &exchange{leaves: p.waits})
		p.waits = false
	case 4, 5, 6: // uses part of a lease
		for _, l := range p.leases {
			if l.ends < w.now {
				continue
			}
			n := w.request()
			fits := true
			for _, rule := range w.set.rules {
				fits = fits && n[rule.kind] <= l.n[rule.kind]
			}
			if !fits {
				continue
			}
			l.n = l.n.minus(n)
			w.charges = append(w.charges, &modelled{at: w.now, n: n})
			p.used = append(p.used, &usedUp{l.ends, w.now, n})
			if r.IntN(2) == 0 { // it used less: told as of its use, or as an absolute instant later
				less := amounts{0, n[1] / 2, n[2] / 2, n[3] / 2}
				less[1] = less[2] + less[3]
				c := w.charges[len(w.charges)-1]
				c.n = c.n.minus(less)
				p.used[len(p.used)-1].n = c.n
				p.changes = append(p.changes, change{l.ends, amounts{}.minus(less)})
			}
			return
		}
	case 7: // slots come free
		if p.busy > 0 {
			p.busy -= 1 + r.Int64N(p.busy)
			w.exchange(p, &exchange{leaves: p.waits})
			p.waits = false
		}
	}
}

// untold is what the server still counts because nobody has told it otherwise.
func (w *world) untold(r *rule) (sum int64) {
	for _, p := range append(w.crashed, w.procs...) {
		for _, c := range p.changes {
			sum -= c.n[r.kind]
		}
		for _, u := range p.used {
			if u.at+r.hold <= w.now {
				sum += u.n[r.kind]
			}
		}
	}
	return sum
}

// justified checks that who was refused and is alone in line really had no room.
func (w *world) justified(need amounts, reply []any) {
	for i := range w.set.rules {
		r := &w.set.rules[i]
		if w.sum(r, w.now, 2*r.bucket+3)+w.untold(r)+need[r.kind] > r.limit.Amount || number(reply, 17+2*i) > w.now {
			return
		}
		if r.limit.Resets != nil {
			return // near midnight no lease is long enough
		}
	}
	var held int64
	for _, h := range w.held {
		if h.until >= w.now-5 {
			held += h.n
		}
	}
	if w.set.slots > 0 && held+1 > w.set.slots || w.now <= w.begun+settling.Milliseconds() {
		return
	}
	for _, r := range w.set.rules {
		if r.burst > 0 {
			return
		}
	}
	w.t.Fatalf("refused although there is room: needs %v, told to come in %d ms", need, number(reply, 12)-w.now)
}

// The script against the model. Seen to fail: buckets rounded down, an exchange that is
// repeated booked again, slots of a silent process not given back, one more admitted than
// the amount, refunds of charges that have left, outputs that never leave, more granted
// than there is, leases that outlast midnight.
func TestScriptAgainstModel(t *testing.T) {
	client := private(t).client(t)
	newYork, err := time.LoadLocation("America/New_York")
	require.NoError(t, err)
	for name, limits := range map[string][]llmqueue.Limit{
		"requests":        {llmqueue.RPM(20).Per(time.Second)},
		"tokens, minutes": {llmqueue.RPM(100), llmqueue.TPM(2000)},
		"all kinds":       {llmqueue.RPM(30).Per(time.Second), llmqueue.TPM(900).Per(2 * time.Second), llmqueue.ITPM(600).Per(time.Second), llmqueue.OTPM(250).Per(time.Second), llmqueue.Concurrent(9)},
		"slots":           {llmqueue.Concurrent(5)},
		"output":          {llmqueue.OTPM(100).Per(time.Second)},
		"days":            {llmqueue.RPM(50).Per(time.Second), llmqueue.RPD(400).Daily(newYork), llmqueue.TPD(20000)},
		"midnight":        {llmqueue.RPD(60).Daily(newYork)},
		"bursts":          {llmqueue.RPM(50).Per(time.Second).WithBurst(10)},
	} {
		t.Run(name, func(t *testing.T) {
			for seed := range uint64(8) {
				w := newWorld(t, client, seed, limits...)
				if name == "days" || name == "midnight" {
					w.now = time.Date(2026, 3, 7, 23, 59, 57, 0, newYork).UnixMilli()
				}
				if name == "tokens, minutes" {
					w.scale = 20
				}
				w.begun = w.now
				for range 500 {
					w.step()
				}
			}
		})
	}
}
