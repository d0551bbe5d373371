package llmtest

import (
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// handle serves one request: the key, the path, then the limits.
func (s *Server) handle(w http.ResponseWriter, r *http.Request) {
	if s.config.spoil {
		w = spoiler{w, s.config.spoilValue}
	}
	route, p := s.dialect.route(r)
	switch {
	case s.config.key != "" && s.dialect.key(r) != s.config.key:
		p = &problem{reason: wrongKey}
	case p != nil:
	case route.page != nil:
		route.page(w, r)
		return
	default:
		s.generate(w, r, route.generate)
		return
	}
	s.reject(w, p)
}

// reject answers a request that never reaches the limits.
func (s *Server) reject(w http.ResponseWriter, p *problem) {
	s.enforcer.reject()
	s.fail(w, p)
}

func (s *Server) fail(w http.ResponseWriter, p *problem) {
	s.complete(p)
	s.dialect.fail(w, p)
}

// complete fills in what a problem leaves to the provider.
func (s *Server) complete(p *problem) {
	p.at, p.chosen = time.Now(), p.status != 0
	if !p.chosen {
		p.status = s.dialect.status(p.reason)
	}
}

// maxBody is far above any prompt.
const maxBody = 32 << 20

// generate answers a request for which limits count.
func (s *Server) generate(w http.ResponseWriter, r *http.Request, read operation) {
	// Reading to the end also lets net/http notice when the client goes away.
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		s.reject(w, &problem{reason: badRequest, message: "The request's body could not be read: " + err.Error()})
		return
	}
	c, f, p := read(r, body)
	if p != nil {
		s.reject(w, p)
		return
	}
	c.body = hash(body)
	t := s.enforcer.admit(&c)
	s.dialect.headers(w.Header(), &t)
	if s.config.draft {
		writeDraft(w.Header(), t.quota)
	}
	switch {
	case t.refusal != nil && t.refusal.never:
		p = &problem{reason: tooLarge, refusal: t.refusal}
	case t.refusal != nil:
		p = &problem{reason: rateLimited, refusal: t.refusal}
		if !s.config.noRetryAfter {
			p.retryAfter = t.refusal.wait
		}
	case t.full:
		p = &problem{reason: overloaded, status: s.config.load.Status}
	}
	if p != nil {
		p.model, p.number = c.model, t.arrival
		s.fail(w, p)
		return
	}
	x := exchange{Server: s, w: w, ticket: &t, format: f, reply: s.config.plan(&c, &t)}
	x.answer = answer{call: &c, number: t.arrival, began: time.Now(), cached: t.cached, stored: t.stored}
	verdict := x.write(r.Context())
	s.enforcer.produce(&t, x.tokens-x.told)
	s.enforcer.finish(&t, verdict, x.reply.fault, x.tokens)
	if x.abort {
		// Returning would end the answer properly: an empty 200, or a stream that
		// seems complete. This cuts the connection, as net/http documents it.
		panic(http.ErrAbortHandler)
	}
}

// An exchange is one accepted request while it is answered.
type exchange struct {
	*Server
	answer
	w      http.ResponseWriter
	ticket *ticket
	format format
	reply  reply
	clock  clock
	told   int64 // output tokens charged so far
	abort  bool  // the connection is to be cut
}

// write sends the answer at its own pace and returns what became of it.
func (x *exchange) write(ctx context.Context) Verdict {
	if !x.slots.take(ctx) {
		return x.gone()
	}
	defer x.slots.leave()
	x.clock.start = time.Now()
	defer x.clock.stop()
	x.reply.timing = x.config.load.slowed(x.reply.timing, x.ticket.running)
	x.timing, x.cut = x.reply.timing, x.reply.cut

	fault := x.reply.fault
	p := fault.problem(x.call.stream)
	if p == nil && fault.says() && !x.call.stream && x.format.failed(&x.answer, x.event()) == nil {
		p = fault.event()
	}
	if p != nil {
		p.model, p.number = x.call.model, x.number
		x.fail(x.w, p)
		return Failed
	}
	switch fault.Kind {
	case FaultReset:
		x.reset()
		return Failed
	case FaultSlow:
		if !x.pause(ctx, fault.Delay) {
			return x.lost(fault)
		}
	case FaultHeaders:
		x.w = spoiler{x.w, fault.Value}
	}
	if x.call.stream {
		return x.stream(ctx)
	}
	return x.unary(ctx)
}

// unary sends the answer in one piece when all of it is there.
func (x *exchange) unary(ctx context.Context) Verdict {
	says := x.reply.fault.says()
	if says {
		x.reply.tokens /= 2
	}
	if !x.sleepUntilProduced(ctx, x.reply.tokens) {
		return x.gone()
	}
	x.text = x.reply.text()
	x.tokens = x.reply.tokens
	var body any
	if says {
		body = x.format.failed(&x.answer, x.event())
	} else {
		body = x.format.whole(&x.answer)
	}
	data, err := json.Marshal(body)
	if err != nil {
		return x.gone()
	}
	h := x.w.Header()
	if f, ok := x.format.(headed); ok {
		f.header(&x.answer, h)
	}
	h.Set("Content-Type", "application/json")
	h.Set("Content-Length", strconv.Itoa(len(data)))
	x.w.WriteHeader(http.StatusOK)
	if half := len(data) / 2; x.breaks() && !says {
		_, _ = x.w.Write(data[:half])
		if v, over := x.breakOff(ctx); over {
			return v
		}
		data = data[half:]
	}
	if _, err := x.w.Write(data); err != nil {
		return x.gone()
	}
	if says {
		return Failed
	}
	return Completed
}

// event returns the error that a fault puts into the answer.
func (x *exchange) event() *problem {
	p := x.reply.fault.event()
	p.model, p.number = x.call.model, x.number
	x.complete(p)
	return p
}

// stream sends the answer a token at a time.
func (x *exchange) stream(ctx context.Context) Verdict {
	if !x.clock.sleepUntil(ctx, x.reply.timing.first) {
		return x.gone()
	}
	h := x.w.Header()
	h.Set("Content-Type", x.format.contentType())
	h.Set("Cache-Control", "no-cache")
	x.w.WriteHeader(http.StatusOK)
	out := &events{w: x.w}
	x.format.begin(&x.answer, out)
	var text strings.Builder
	text.Grow(int(4 * x.reply.tokens))
	for i := range x.reply.tokens {
		if i == x.reply.tokens/2 && x.breaks() {
			out.flush()
			if x.reply.fault.says() {
				x.format.fail(&x.answer, out, x.event())
				out.flush()
				return Failed
			}
			if v, over := x.breakOff(ctx); over {
				return v
			}
		}
		due := x.reply.timing.due(i + 1)
		if due > time.Since(x.clock.start) {
			out.flush() // only before a pause: tokens that are due together travel together
		}
		if !x.clock.sleepUntil(ctx, due) {
			return x.gone()
		}
		word := x.reply.word(i)
		text.WriteString(word)
		x.text, x.tokens = text.String(), i+1
		x.produced(x.tokens)
		x.format.token(&x.answer, out, word)
		if out.err != nil {
			return x.gone()
		}
	}
	x.format.end(&x.answer, out)
	out.flush()
	if out.err != nil {
		return x.gone()
	}
	return Completed
}

// maxInstalments is in how many pieces at most the output of an answer is
// charged. One for each token would make the record of charges grow with them.
const maxInstalments = 32

// sleepUntilProduced waits for n tokens, and has them charged as they come if
// that is how they are charged.
func (x *exchange) sleepUntilProduced(ctx context.Context, n int64) bool {
	if x.config.charging == chargeActual {
		for i := x.instalment(); i < n; i += x.instalment() {
			if !x.clock.sleepUntil(ctx, x.reply.timing.due(i)) {
				x.tokens = x.reply.timing.produced(time.Since(x.clock.start), n)
				return false
			}
			x.produced(i)
		}
	}
	if !x.clock.sleepUntil(ctx, x.reply.timing.due(n)) {
		x.tokens = x.reply.timing.produced(time.Since(x.clock.start), n)
		return false
	}
	return true
}

func (x *exchange) instalment() int64 {
	return (x.reply.tokens + maxInstalments - 1) / maxInstalments
}

// produced has the output up to the n-th token charged if that makes an
// instalment. The rest is charged at the end.
func (x *exchange) produced(n int64) {
	if more := n - x.told; more >= x.instalment() {
		x.enforcer.produce(x.ticket, more)
		x.told = n
	}
}

// breaks reports whether the body is to go wrong in its middle.
func (x *exchange) breaks() bool {
	f := x.reply.fault
	return f.Kind == FaultCut || f.Kind == FaultStall || f.says()
}

// breakOff stops the answer in its middle. It returns true unless the answer
// goes on after all.
func (x *exchange) breakOff(ctx context.Context) (Verdict, bool) {
	_ = http.NewResponseController(x.w).Flush()
	if fault := x.reply.fault; fault.Kind == FaultStall {
		if x.pause(ctx, fault.Delay) {
			return Completed, false
		}
		return x.lost(fault), true
	}
	x.abort = true
	return Failed, true
}

// pause holds the answer up for d, and moves everything after it; for good if d
// is zero. It returns false if ctx ended first.
func (x *exchange) pause(ctx context.Context, d time.Duration) bool {
	if d == 0 {
		<-ctx.Done()
		return false
	}
	begun := time.Since(x.clock.start)
	if !x.clock.sleepUntil(ctx, begun+d) {
		return false
	}
	x.clock.start = x.clock.start.Add(time.Since(x.clock.start) - begun)
	return true
}

// gone ends the answer to a client that went away.
func (x *exchange) gone() Verdict {
	x.abort = true
	return Canceled
}

// lost ends the answer to a client that went away because of a fault.
func (x *exchange) lost(f Fault) Verdict {
	x.abort = true
	if f.Delay > 0 {
		return Canceled
	}
	return Failed
}

// reset breaks the connection before anything is sent.
func (x *exchange) reset() {
	conn, _, err := http.NewResponseController(x.w).Hijack()
	if err != nil {
		x.abort = true
		return
	}
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0) // so that closing sends a reset
	}
	_ = conn.Close()
}
