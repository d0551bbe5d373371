package llmtest

import "time"

// A charge is what the limits were charged at one moment.
type charge struct {
	at            time.Duration
	model         string
	requests      int64
	input, output int64 // tokens
}

// amount returns how much of it counts for limits of a kind.
func (ch *charge) amount(k Kind) int64 {
	switch k {
	case KindRequests:
		return ch.requests
	case KindTokens, KindUnified:
		return ch.input + ch.output
	case KindInput:
		return ch.input
	case KindOutput:
		return ch.output
	}
	return 0
}

// A charging is how a provider charges tokens.
type charging int

const (
	chargeMaxTokens charging = iota // input and max_tokens on arrival, for good
	chargeActual                    // input on arrival, output as it is produced
	chargeReserve                   // input and max_tokens on arrival, settled at the end
)

// onArrival returns what the call is charged when it arrives.
func (c *config) onArrival(now time.Duration, call *call, cached int64) charge {
	ch := charge{at: now, model: call.model, requests: 1, input: call.input}
	if c.charging != chargeReserve { // which reserves cached input too
		ch.input -= cached
	}
	if c.charging != chargeActual {
		ch.output = call.maxTokens
	}
	return ch
}

// charge charges every limit that covers the model, and records it.
func (e *enforcer) charge(ch charge) {
	for _, r := range e.rules {
		if n := ch.amount(r.limit.Kind); n > 0 && r.covers(ch.model) {
			r.meter.take(ch.at, n)
		}
	}
	e.charges = append(e.charges, ch)
}

// settle lowers or raises an earlier charge to what it should be. What is given
// back is taken off the charge itself, and a rise is charged now.
func (e *enforcer) settle(now time.Duration, i int, want charge) {
	ch := &e.charges[i]
	before := *ch
	ch.requests = min(ch.requests, want.requests)
	ch.input = min(ch.input, want.input)
	ch.output = min(ch.output, want.output)
	for _, r := range e.rules {
		if n := before.amount(r.limit.Kind) - ch.amount(r.limit.Kind); n > 0 && r.covers(ch.model) {
			r.meter.refund(now, ch.at, n)
		}
	}
	if want.input > before.input || want.output > before.output {
		e.charge(charge{
			at:     now,
			model:  ch.model,
			input:  max(want.input-before.input, 0),
			output: max(want.output-before.output, 0),
		})
	}
}

// occupy takes a slot of the limits on concurrency, or gives it back with -1.
func (e *enforcer) occupy(now time.Duration, model string, n int64) {
	for _, r := range e.rules {
		if r.limit.Kind == KindConcurrent && r.covers(model) {
			if n > 0 {
				r.meter.take(now, n)
			} else {
				r.meter.refund(now, now, -n)
			}
		}
	}
}

// produce charges n more output tokens, where output is charged as it is
// produced.
func (e *enforcer) produce(t *ticket, n int64) {
	if n <= 0 || e.config.charging != chargeActual {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	a := &e.arrivals[t.arrival]
	a.Charged += n
	e.charge(charge{at: time.Since(e.start), model: a.Model, output: n})
}

// finish records how an accepted request ended, settles its charge and gives
// its slot back. All of its output has been told to produce.
func (e *enforcer) finish(t *ticket, v Verdict, f Fault, output int64) {
	e.mu.Lock()
	defer e.mu.Unlock()
	now := time.Since(e.start)
	a := &e.arrivals[t.arrival]
	a.Verdict, a.Fault, a.OutputTokens, a.Duration = v, f, output, e.start.Add(now).Sub(a.At)
	e.running--
	e.occupy(now, a.Model, -1)
	want := e.charges[t.charge]
	switch {
	case v == Failed && e.config.failedFree:
		want.requests, want.input = 0, 0
		if e.config.charging != chargeActual {
			want.output = 0
		}
	case e.config.charging == chargeReserve:
		// Cached input is reserved and not charged in the end.
		want.input = a.InputTokens - a.CachedTokens
		want.output = output * e.config.burndown
	default:
		return
	}
	before := e.charges[t.charge].amount(KindTokens)
	e.settle(now, t.charge, want)
	a.Charged += want.amount(KindTokens) - before
}

// cacheTTL is how long a cached prefix lives after it was last used: Anthropic
// documents five minutes.
const cacheTTL = 5 * time.Minute

// lookUp returns how many of the call's input tokens are in the cache.
func (e *enforcer) lookUp(now time.Duration, c *call) int64 {
	if used, ok := e.cached[c.prefix]; c.prefix != 0 && ok && now-used < cacheTTL {
		return c.prefixTokens
	}
	return 0
}

// store puts the call's prefix into the cache and returns how many tokens of it
// are new there.
func (e *enforcer) store(now time.Duration, c *call, cached int64) int64 {
	if c.prefix == 0 {
		return 0
	}
	e.cached[c.prefix] = now
	return c.prefixTokens - cached
}
