package llmtest

import (
	"fmt"
	"math/big"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"
)

// A reference is the definition of a strategy, straight from its comment and as
// slow as it comes.
type reference interface {
	fits(now time.Duration, n int64) bool
	take(now time.Duration, n int64)
	refund(now, at time.Duration, n int64)
}

func newReference(l Limit, start time.Time) reference {
	switch l.Strategy {
	case SlidingWindow:
		return &listed{amount: l.Amount, counts: func(at, now time.Duration) bool { return at > now-l.Period }}
	case FixedWindow:
		return &listed{amount: l.Amount, counts: func(at, now time.Duration) bool { return at/l.Period == now/l.Period }}
	case Daily:
		date := func(d time.Duration) string { return start.Add(d).In(l.Zone).Format(time.DateOnly) }
		return &listed{amount: l.Amount, counts: func(at, now time.Duration) bool { return date(at) == date(now) }}
	case Quantized:
		return &sliced{limit: l}
	}
	return &leaky{limit: l, tokens: new(big.Rat).SetInt64(l.Amount)}
}

// listed keeps every charge and counts those that counts says.
type listed struct {
	amount  int64
	counts  func(at, now time.Duration) bool
	charges []entry
}

func (l *listed) fits(now time.Duration, n int64) bool {
	for _, c := range l.charges {
		if l.counts(c.at, now) {
			n += c.n
		}
	}
	return n <= l.amount
}

func (l *listed) take(now time.Duration, n int64) { l.charges = append(l.charges, entry{now, n}) }

func (l *listed) refund(_, at time.Duration, n int64) { l.charges = append(l.charges, entry{at, -n}) }

// leaky is a bucket in exact fractions.
type leaky struct {
	limit  Limit
	tokens *big.Rat
	at     time.Duration
}

func (l *leaky) change(now time.Duration, n int64) {
	amount := new(big.Rat).SetInt64(l.limit.Amount)
	l.tokens.Add(l.tokens, new(big.Rat).Mul(amount, big.NewRat(int64(now-l.at), int64(l.limit.Period))))
	for _, n := range []int64{0, n} {
		l.tokens.Add(l.tokens, new(big.Rat).SetInt64(n))
		if l.tokens.Cmp(amount) > 0 {
			l.tokens.Set(amount)
		}
	}
	if debt := new(big.Rat).Neg(amount); l.tokens.Cmp(debt) < 0 {
		l.tokens.Set(debt)
	}
	l.at = now
}

func (l *leaky) fits(now time.Duration, n int64) bool {
	elapsed := big.NewRat(int64(now-l.at), int64(l.limit.Period))
	have := new(big.Rat).Add(l.tokens, elapsed.Mul(elapsed, new(big.Rat).SetInt64(l.limit.Amount)))
	return n <= l.limit.Amount && new(big.Rat).SetInt64(n).Cmp(have) <= 0
}

func (l *leaky) take(now time.Duration, n int64)      { l.change(now, -n) }
func (l *leaky) refund(now, _ time.Duration, n int64) { l.change(now, n) }

// sliced walks through every slice since the start.
type sliced struct {
	limit   Limit
	changes []entry
}

func (s *sliced) part(i int64) int64 {
	k := int64(s.limit.Period / s.limit.Slice)
	return (i%k+1)*s.limit.Amount/k - i%k*s.limit.Amount/k
}

func (s *sliced) used(now time.Duration) (used int64) {
	next := 0
	for i := int64(0); i <= int64(now/s.limit.Slice); i++ {
		if i > 0 {
			used = max(used-s.part(i-1), 0)
		}
		if used == 0 { // nothing happens until the next change
			if next == len(s.changes) {
				break
			}
			i = max(i, int64(s.changes[next].at/s.limit.Slice))
		}
		for ; next < len(s.changes) && int64(s.changes[next].at/s.limit.Slice) == i; next++ {
			used = min(max(used+s.changes[next].n, 0), 2*s.limit.Amount)
		}
	}
	return used
}

func (s *sliced) fits(now time.Duration, n int64) bool {
	used := s.used(now)
	return n <= s.limit.Amount && (used == 0 || used+n <= s.part(int64(now/s.limit.Slice)))
}

func (s *sliced) take(now time.Duration, n int64)      { s.changes = append(s.changes, entry{now, n}) }
func (s *sliced) refund(now, _ time.Duration, n int64) { s.changes = append(s.changes, entry{now, -n}) }

// randomLimit draws a limit of any kind and strategy.
func randomLimit(r *rand.Rand) Limit {
	kinds := []Kind{KindRequests, KindTokens, KindInput, KindOutput}
	l := Limit{Kind: kinds[r.IntN(4)], Amount: 500 + r.Int64N(5000)}
	if l.Kind == KindRequests {
		l.Amount = 1 + r.Int64N(20)
	}
	l.Period = time.Duration(1 + r.Int64N(int64(time.Minute)))
	switch r.IntN(5) {
	case 0:
		l = l.By(TokenBucket)
	case 1:
		l = l.By(SlidingWindow)
	case 2:
		l = l.By(FixedWindow)
	case 3:
		l = l.Daily(time.FixedZone("", r.IntN(24)*3600-43200))
	case 4:
		slice := 200*time.Millisecond + time.Duration(r.Int64N(int64(time.Second)))
		l.Period = slice * time.Duration(1+r.IntN(60))
		l = l.Quantized(slice)
	}
	if r.IntN(3) == 0 {
		l = l.For("a")
	}
	return l
}

// A runningCall is an accepted request in the model.
type runningCall struct {
	ticket ticket
	call   call
	at     time.Duration
}

// TestEnforcesExactly sends random arrivals against random sets of limits of
// every kind and strategy, under every way of charging, and compares each
// verdict, each advice to wait and the figures at the end with the definitions.
func TestEnforcesExactly(t *testing.T) {
	for seed := range uint64(120) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { enforceRandomly(t, rand.New(rand.NewPCG(seed, 1))) })
		})
	}
}

func enforceRandomly(t *testing.T, r *rand.Rand) {
	m := newModel(t, r)
	var advised time.Duration // of the last refusal
	for i := range 300 {
		switch r.IntN(6) {
		case 0: // at the same instant as the last
		case 1: // exactly when there should be room
			time.Sleep(advised)
		case 2:
			time.Sleep(time.Duration(r.ExpFloat64() * float64(time.Hour) / 100))
		default:
			time.Sleep(time.Duration(r.ExpFloat64() * float64(2*time.Second)))
		}
		for len(m.running) > 0 && r.IntN(2) == 0 {
			m.finish()
		}
		c := call{model: string(rune('a' + r.IntN(2))), input: r.Int64N(300), maxTokens: r.Int64N(300)}
		now := time.Since(m.e.start)
		ch := m.onArrival(now, &c)
		want := m.fits(now, &ch)
		got := m.e.admit(&c)
		if (got.refusal == nil) != want {
			t.Fatalf("arrival %d at %v %+v: let in %v, want %v\n%+v", i, now, c, !want, want, m)
		}
		if want {
			m.charge(ch)
			m.running = append(m.running, runningCall{got, c, now})
			continue
		}
		if m.e.config.countRefused {
			m.charge(charge{at: now, model: c.model, requests: 1})
		}
		// What it is told to wait is enough, and the least that is.
		if ref := got.refusal; !ref.never {
			advised = ref.wait
			if !m.fits(now+ref.wait, &ch) || m.fits(now+ref.wait-1, &ch) {
				t.Fatalf("arrival %d at %v %+v: told to wait %v, which is not the least, for %v\n%+v", i, now, c, ref.wait, ref.limit, m)
			}
		}
	}
	for len(m.running) > 0 {
		m.finish()
	}
	m.check()
}

// A model is an enforcer made of references.
type model struct {
	t          *testing.T
	r          *rand.Rand
	e          *enforcer
	limits     []Limit
	references []reference
	charges    []charge
	running    []runningCall
}

func newModel(t *testing.T, r *rand.Rand) *model {
	m := &model{t: t, r: r}
	for range 1 + r.IntN(3) {
		m.limits = append(m.limits, randomLimit(r))
	}
	var opts []Option
	switch r.IntN(3) {
	case 0:
		opts = append(opts, WithActualUsage())
	case 1:
		opts = append(opts, WithBurndown(1+r.Int64N(5)))
	}
	if r.IntN(2) == 0 {
		opts = append(opts, WithRefusedFree())
	}
	if r.IntN(2) == 0 {
		opts = append(opts, WithFailedFree())
	}
	c, err := newConfig(OpenAI(m.limits...), opts)
	if err != nil {
		t.Fatal(err)
	}
	m.e = newEnforcer(&c)
	for _, l := range m.limits {
		m.references = append(m.references, newReference(l, m.e.start))
	}
	return m
}

// onArrival is what the options' comments say is charged on arrival.
func (m *model) onArrival(now time.Duration, c *call) charge {
	ch := charge{at: now, model: c.model, requests: 1, input: c.input}
	if m.e.config.charging != chargeActual {
		ch.output = c.maxTokens
	}
	return ch
}

func (m *model) covered(ch *charge, visit func(k int, n int64)) {
	for k, l := range m.limits {
		if l.Model == "" || l.Model == ch.model {
			visit(k, map[Kind]int64{
				KindRequests: ch.requests, KindTokens: ch.input + ch.output, KindInput: ch.input, KindOutput: ch.output,
			}[l.Kind])
		}
	}
}

func (m *model) fits(now time.Duration, ch *charge) bool {
	fits := true
	m.covered(ch, func(k int, n int64) {
		if m.limits[k].Kind == KindOutput {
			n = max(n, 1) // room for the first token
		}
		fits = fits && m.references[k].fits(now, n)
	})
	return fits
}

func (m *model) charge(ch charge) {
	m.covered(&ch, func(k int, n int64) {
		if n != 0 {
			m.references[k].take(ch.at, n)
		}
	})
	m.charges = append(m.charges, ch)
}

// finish ends a request that runs, at random, with some output.
func (m *model) finish() {
	i := m.r.IntN(len(m.running))
	run := m.running[i]
	m.running = append(m.running[:i], m.running[i+1:]...)
	now := time.Since(m.e.start)
	output := m.r.Int64N(max(run.call.maxTokens, 100))
	verdict := []Verdict{Completed, Failed, Canceled}[m.r.IntN(3)]
	m.e.produce(&run.ticket, output)
	m.e.finish(&run.ticket, verdict, Fault{}, output)
	c := m.e.config
	if c.charging == chargeActual && output > 0 {
		m.charge(charge{at: now, model: run.call.model, output: output})
	}
	before := m.onArrival(run.at, &run.call)
	after := before
	switch {
	case verdict == Failed && c.failedFree:
		after = charge{at: run.at, model: run.call.model}
	case c.charging == chargeReserve:
		after.output = output * c.burndown
	}
	back := charge{at: run.at, model: run.call.model, requests: before.requests - after.requests, input: before.input - after.input, output: before.output - after.output}
	if back.output < 0 {
		m.charge(charge{at: now, model: run.call.model, output: -back.output})
		back.output = 0
	}
	m.covered(&back, func(k int, n int64) {
		if n > 0 {
			m.references[k].refund(now, run.at, n)
		}
	})
	m.charges = append(m.charges, charge{at: run.at, model: run.call.model, requests: -back.requests, input: -back.input, output: -back.output})
}

// check compares the figures at the end with all charges.
func (m *model) check() {
	m.t.Helper()
	s := m.e.stats()
	var refused, charged int64
	for i := range m.charges {
		charged += m.charges[i].input + m.charges[i].output
	}
	for k, l := range s.Limits {
		refused += l.Refused
		var entries []entry
		for i := range m.charges {
			m.covered(&m.charges[i], func(j int, n int64) {
				if j == k && n != 0 {
					entries = append(entries, entry{m.charges[i].at, n})
				}
			})
		}
		var peak int64
		for _, first := range entries {
			var sum int64
			for _, c := range entries {
				if c.at >= first.at && c.at-first.at < m.limits[k].Period {
					sum += c.n
				}
			}
			peak = max(peak, sum)
		}
		if l.Peak != peak {
			m.t.Errorf("%v by %v: peak %d, want %d", l.Limit, l.Limit.Strategy, l.Peak, peak)
		}
	}
	if refused != s.Refused || s.Accepted+s.Refused != 300 || s.Completed+s.Failed+s.Canceled != s.Accepted {
		m.t.Errorf("stats %+v: want 300 in all, and %d refused by limits", s, refused)
	}
	if s.TokensCharged != charged {
		m.t.Errorf("%d tokens charged, want %d", s.TokensCharged, charged)
	}
}
