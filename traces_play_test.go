package llmqueue_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/llmqueue/llmqueue"
)

// How queues play the stories of TestTraces, and what is written down.

var errStory = errors.New("boom")

// reply is a result that says what it used, and may break its validate tag.
type reply struct {
	N    int `validate:"lte=1000"`
	Used llmqueue.Usage
}

func (r reply) TokenUsage() llmqueue.Usage { return r.Used }

// fuse is a breaker: so many failures in a row open it for five seconds, then one probe
// passes at a time.
type fuse struct {
	mu       sync.Mutex
	most     int
	failures int
	open     bool
	probing  bool
	until    time.Time
}

func (f *fuse) TryAcquirePermit() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.open && (f.probing || time.Now().Before(f.until)) {
		return false
	}
	f.probing = f.open
	return true
}

func (f *fuse) RecordSuccess() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.failures, f.open, f.probing = 0, false, false
}

func (f *fuse) RecordFailure() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.probing = false
	if f.failures++; f.open || f.failures >= f.most {
		f.open, f.until = true, time.Now().Add(5*time.Second)
	}
}

func (f *fuse) IsClosed() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return !f.open
}

func (f *fuse) RemainingDelay() time.Duration {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.open {
		return 0
	}
	return max(time.Until(f.until), 0)
}

type answer struct {
	at   time.Time
	resp llmqueue.Response[reply]
	err  error
}

// stage is where a story is played.
type stage struct {
	*plot
	t      *testing.T
	begin  time.Time
	queues map[string]*llmqueue.Queue[int, reply]

	mu      sync.Mutex // guards the rest
	tries   []int
	answers []answer            // by request: what Submit said
	seen    map[string][]string // by model and request, or model alone
	told    map[string][]string // by model: what an operator was told
	last    map[string]string   // the error of the latest event
}

func (p *plot) play(t *testing.T) []string {
	s := &stage{
		plot: p, t: t, begin: time.Now(), queues: map[string]*llmqueue.Queue[int, reply]{},
		tries: make([]int, len(p.requests)), answers: make([]answer, len(p.requests)),
		seen: map[string][]string{}, told: map[string][]string{}, last: map[string]string{},
	}
	s.setUp()
	leave := make([]context.CancelFunc, len(p.requests))
	for _, st := range p.steps {
		time.Sleep(st.at - time.Since(s.begin))
		s.do(st, leave)
		synctest.Wait()
	}
	ctx, cancel := context.WithCancel(context.Background())
	if p.cut > 0 {
		ctx, cancel = context.WithTimeout(ctx, p.cut)
	}
	defer cancel()
	for _, m := range p.models {
		err := s.queues[m.id].Shutdown(ctx)
		s.note(m.id, "shutdown", err)
	}
	time.Sleep(time.Minute) // abandoned processors return
	synctest.Wait()
	for _, l := range leave {
		if l != nil {
			l()
		}
	}
	return s.lines()
}

func (s *stage) setUp() {
	var shared *llmqueue.SharedLimits
	if len(s.plot.shared) > 0 {
		shared = llmqueue.NewSharedLimits(s.plot.shared...)
	}
	manager := llmqueue.NewManager[int, reply]()
	for _, m := range s.models {
		limits := llmqueue.WithUnlimited()
		if len(m.limits) > 0 {
			limits = llmqueue.WithLimits(m.limits...)
		} else if m.learns {
			limits = llmqueue.WithOptions()
		}
		opts := []llmqueue.Option{
			limits, llmqueue.WithMargin(m.margin), llmqueue.WithTimeout(m.timeout), llmqueue.WithMaxQueued(m.maxQueued),
			llmqueue.WithRetry(llmqueue.RetryPolicy{MaxAttempts: m.attempts, BaseDelay: 1, MaxDelay: 1, Budget: m.budget}),
			llmqueue.WithSeed(1), llmqueue.WithShutdownGrace(m.grace), llmqueue.WithHistory(1000, 1000*time.Hour), llmqueue.WithObserver(s.observe), llmqueue.WithFallback(m.fallback...),
		}
		for on, o := range map[*bool]llmqueue.Option{
			&m.unchecked: llmqueue.WithoutDeadlineCheck(), &m.keepOnQuota: llmqueue.WithWaitForQuota(),
			&m.learns: llmqueue.WithLearnedLimits(), &m.backfills: llmqueue.WithBackfill(), &m.shares: llmqueue.WithSharedLimits(shared),
			&m.coalesces: llmqueue.WithCoalescing(func(r llmqueue.Request[int]) string { return s.requests[r.Params].key }),
			&m.estimates: llmqueue.WithEstimator(func(r llmqueue.Request[int]) llmqueue.Usage { return s.requests[r.Params].guess }),
		} {
			if *on {
				opts = append(opts, o)
			}
		}
		breaker := llmqueue.WithBreaker(func(string) llmqueue.Breaker { return &fuse{most: m.fuse} })
		if m.fuse > 0 {
			opts = append(opts, breaker)
		}
		q, err := manager.Register(m.id, s.process, opts...)
		require.NoError(s.t, err)
		for _, e := range m.endpoints {
			opts := []llmqueue.Option{llmqueue.WithLimits(e.limits...)}
			if m.fuse > 0 {
				opts = append(opts, breaker)
			}
			require.NoError(s.t, q.AddEndpoint(e.name, s.process, opts...))
		}
		s.queues[m.id] = q
	}
}

func (s *stage) do(st plotStep, leave []context.CancelFunc) {
	q, id := s.queues[st.model], "r"+strconv.Itoa(st.i)
	switch st.what {
	case "submit":
		d := s.requests[st.i]
		ctx, cancel := context.WithCancel(context.Background())
		if d.deadline > 0 {
			ctx, cancel = context.WithTimeout(context.Background(), d.deadline)
		}
		leave[st.i] = cancel
		submit := func() {
			resp, err := q.Submit(ctx, llmqueue.Request[int]{
				ID: id, Params: st.i, Priority: d.priority, Tenant: d.tenant, Estimate: d.estimate, MaxWait: d.maxWait, NoWait: !d.waited,
			})
			s.mu.Lock()
			defer s.mu.Unlock()
			s.answers[st.i] = answer{time.Now(), resp, err}
		}
		if d.waited {
			go submit()
		} else {
			submit()
		}
	case "cancel":
		_ = q.Cancel(id)
	case "leave":
		leave[st.i]()
	case "update":
		_ = q.UpdateUsage(id, st.usage)
	case "limits":
		s.note(st.model, "set limits", q.SetEndpointLimits(st.name, st.limits...))
	case "pause":
		q.Pause()
	case "resume":
		q.Resume()
	case "add":
		require.NoError(s.t, q.AddEndpoint(st.name, s.process, llmqueue.WithLimits(st.limits...)))
	case "remove":
		go func() {
			err := q.RemoveEndpoint(context.Background(), st.name)
			s.note(st.model, "removed "+st.name, err)
		}()
	case "check":
		info := q.Info()
		seen := []string{fmt.Sprintf("%s check: %d pending, %d processing, %d forwarded, %d abandoned", s.at(time.Now()), info.Pending, info.Processing, info.Forwarded, info.Abandoned)}
		for _, e := range info.Endpoints {
			seen = append(seen, fmt.Sprintf("%s has %d slots", e.Name, e.Slots))
			for _, l := range slices.Concat(e.Limits, e.Shared) {
				seen = append(seen, fmt.Sprintf("%d of %s", l.Used, l.Limit))
			}
		}
		s.mu.Lock()
		s.told[st.model] = append(s.told[st.model], strings.Join(seen, ", "))
		s.mu.Unlock()
	}
}

func (s *stage) process(ctx context.Context, r llmqueue.Request[int]) (reply, error) {
	d := s.requests[r.Params]
	s.mu.Lock()
	f := d.fates[s.tries[r.Params]%len(d.fates)]
	s.tries[r.Params]++
	s.mu.Unlock()
	moment := time.Duration(3+r.Params) * time.Microsecond // that no other takes
	wait := func(d time.Duration) {
		if !f.heeds {
			time.Sleep(d)
			return
		}
		select {
		case <-time.After(d):
		case <-ctx.Done():
			time.Sleep(moment) // not in the instant in which it is told to
		}
	}
	ends := f.ends
	if ends == "quota" && r.ModelID != s.models[0].id {
		ends = "passing" // see leftOut
	}
	o := llmqueue.Observation{Limits: f.limits, Delay: f.after, Outcome: map[string]llmqueue.Outcome{
		"passing": llmqueue.OutcomeRetryable, "streamed": llmqueue.OutcomeRetryable, "slow": llmqueue.OutcomeSlowDown,
		"refused": llmqueue.OutcomeRateLimited, "overloaded": llmqueue.OutcomeOverloaded, "quota": llmqueue.OutcomeQuotaExhausted,
		"fatal": llmqueue.OutcomeFatal,
	}[ends]}
	if f.tells == "observed" {
		o.Usage = f.used
	}
	if o.Outcome == "" && (f.tells == "observed" || len(f.limits) > 0) {
		o.Outcome, o.Delay = llmqueue.OutcomeServed, 0
	}
	half := f.takes / 2
	wait(half)
	if o.Outcome != "" && f.early {
		llmqueue.Observe(ctx, o)
	}
	wait(f.takes - half)
	if o.Outcome != "" && !f.early {
		llmqueue.Observe(ctx, o)
		time.Sleep(moment)
	}
	if f.tells == "report" {
		llmqueue.ReportUsage(ctx, llmqueue.Usage{InputTokens: 1 << 30})
		llmqueue.ReportUsage(ctx, f.used) // the last one counts
	}
	result := reply{N: r.Params}
	if f.tells == "result" {
		result.Used = f.used
	}
	switch ends {
	case "ok":
		return result, nil
	case "invalid":
		result.N = 1_000_000
		return result, nil
	case "permanent":
		return result, llmqueue.Permanent(errStory)
	case "retryable":
		return result, llmqueue.Retryable(errStory)
	case "limited":
		return result, llmqueue.RateLimited(errStory, f.after)
	case "streamed":
		llmqueue.Streamed(ctx)
	case "panic":
		panic(llmqueue.Retryable(errStory)) // a mark means nothing in a panic
	case "goexit":
		runtime.Goexit()
	}
	return result, errStory
}

// observe writes an event down.
func (s *stage) observe(e llmqueue.Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	parts := []string{s.at(e.Time), string(e.Type)}
	if e.RequestID != "" {
		i, err := strconv.Atoi(e.RequestID[1:])
		if assert.NoError(s.t, err) {
			d := s.requests[i]
			assert.Equal(s.t, []any{d.priority, d.tenant, !d.waited}, []any{e.Priority, e.Tenant, e.NoWait}, "%s of %s", e.Type, e.RequestID)
		}
	}
	if e.Attempt > 0 {
		parts = append(parts, "#"+strconv.Itoa(e.Attempt))
	}
	if e.Endpoint != "" && e.Endpoint != e.ModelID {
		parts = append(parts, "on "+e.Endpoint)
	}
	if e.Fallback != "" {
		parts = append(parts, "by "+e.Fallback)
	}
	if e.Waited >= time.Microsecond {
		parts = append(parts, "waited "+seconds(e.Waited))
	}
	if e.Took >= time.Microsecond {
		parts = append(parts, "took "+seconds(e.Took))
	}
	if !e.Until.IsZero() {
		parts = append(parts, "until "+s.at(e.Until))
	}
	if e.Outcome != "" && (e.Outcome != llmqueue.OutcomeServed || e.Type != llmqueue.EventCompleted) {
		parts = append(parts, string(e.Outcome))
	}
	if e.Usage != (llmqueue.Usage{}) {
		parts = append(parts, "used "+tokens(e.Usage))
	}
	var limits []string
	for _, l := range e.Limits {
		limits = append(limits, l.String())
	}
	if len(limits) > 0 {
		parts = append(parts, strings.Join(limits, ", "))
	}
	who := e.ModelID
	if e.RequestID != "" {
		who += "/" + e.RequestID
	}
	s.last[who] = s.text(e.ModelID, e.RequestID, e.Err)
	s.seen[who] = append(s.seen[who], strings.Join(parts, " ")+s.last[who])
}

// note writes down what an operator was told.
func (s *stage) note(model, what string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.told[model] = append(s.told[model], s.at(time.Now())+" "+what+s.text(model, "", err))
}

// lines are what was written down.
func (s *stage) lines() (out []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, d := range s.requests {
		id := "r" + strconv.Itoa(i)
		about := []string{d.model + "/" + id, "p" + strconv.Itoa(d.priority), cmp.Or(d.tenant, "-"), tokens(d.estimate)}
		if d.maxWait > 0 {
			about = append(about, "maxwait "+seconds(d.maxWait))
		}
		if d.deadline > 0 {
			about = append(about, "deadline "+seconds(d.deadline))
		}
		if d.key != "" {
			about = append(about, "key "+d.key)
		}
		if !d.waited {
			about = append(about, "nowait")
		}
		parts := append([]string{strings.Join(about, " ")}, s.seen[d.model+"/"+id]...)
		delete(s.seen, d.model+"/"+id)
		said := s.answers[i]
		resp, err := s.queues[d.model].Status(id)
		switch {
		case said.resp.RequestID == "":
			assert.ErrorIs(s.t, err, llmqueue.ErrRequestNotFound)
			parts = append(parts, s.at(said.at)+" refused"+s.text(d.model, id, said.err))
		case assert.NotEmpty(s.t, resp.RequestID, "%s is forgotten: %v", id, err):
			got := s.response(d.model, resp, resp.Err)
			if d.waited {
				resp = said.resp // a result is delivered once
				if at := s.response(d.model, resp, said.err); at != got {
					parts = append(parts, at, "later "+got) // what it used was known later
				} else {
					parts = append(parts, got)
				}
			} else {
				parts = append(parts, got)
			}
			if resp.Status == llmqueue.StatusCompleted {
				assert.Equal(s.t, "r"+strconv.Itoa(resp.Result.N), s.sharer(resp), "%s got another request's result", id)
			}
		}
		out = append(out, strings.Join(parts, " | "))
	}
	for _, m := range s.models {
		i := s.queues[m.id].Info()
		assert.Equal(s.t, i.Accepted, int64(i.Pending)+int64(i.Processing)+int64(i.Forwarded)+i.Completed+i.Failed+i.Canceled, "every request ends once: %+v", i)
		assert.Zero(s.t, i.Dropped)
		out = append(out, strings.Join(append([]string{m.id}, s.seen[m.id]...), " | "),
			strings.Join(append([]string{m.id + "-operator"}, s.told[m.id]...), " | "),
			fmt.Sprintf("%s-counts accepted %d, completed %d, failed %d, canceled %d, pending %d, attempts %d, retries %d, refused %d, coalesced %d, fallbacks %d, abandoned %d, waited %s, worked %s, used %s",
				m.id, i.Accepted, i.Completed, i.Failed, i.Canceled, i.Pending, i.Attempts, i.Retries, i.Refused, i.Coalesced, i.Fallbacks, i.Abandoned, seconds(i.Waited), seconds(i.Worked), tokens(i.Usage)))
		delete(s.seen, m.id)
	}
	var visitors []string // what other models sent here
	for who, parts := range s.seen {
		visitors = append(visitors, strings.Join(append([]string{who + " from elsewhere"}, parts...), " | "))
	}
	slices.Sort(visitors)
	return append(out, visitors...)
}

// response is what a caller sees in the end. An error is written out when it is another
// one than that of the last event.
func (s *stage) response(model string, r llmqueue.Response[reply], err error) string {
	line := fmt.Sprintf("= %s %d×", r.Status, r.Attempts)
	if r.ModelID != model {
		line += " by " + r.ModelID
	}
	if r.Usage != (llmqueue.Usage{}) {
		line += " used " + tokens(r.Usage)
	}
	if !r.StartedAt.IsZero() {
		line += " waited " + seconds(r.WaitTime())
	}
	if text := s.text(model, r.RequestID, err); text != s.last[model+"/"+r.RequestID] {
		line += text
	}
	return line
}

// sharer is whose result r is: its own, or that of one with the same key.
func (s *stage) sharer(r llmqueue.Response[reply]) string {
	i, _ := strconv.Atoi(r.RequestID[1:])
	if key := s.requests[i].key; key != "" && r.Result.N < len(s.requests) && s.requests[r.Result.N].key == key {
		return "r" + strconv.Itoa(r.Result.N)
	}
	return r.RequestID
}

func (s *stage) at(t time.Time) string { return seconds(t.Sub(s.begin)) }

// seconds rounds to microseconds: the stories' instants are some, and a backoff takes a
// nanosecond at random.
func seconds(d time.Duration) string {
	return strconv.FormatFloat(float64(d.Round(time.Microsecond)/time.Microsecond)/1e6, 'f', -1, 64)
}

func tokens(u llmqueue.Usage) string { return fmt.Sprintf("%d+%d", u.InputTokens, u.OutputTokens) }

// kinds of errors that callers tell apart.
var tellApart = []struct {
	name string
	err  error
}{
	{"not registered", llmqueue.ErrModelNotRegistered}, {"invalid configuration", llmqueue.ErrInvalidConfiguration},
	{"invalid params", llmqueue.ErrInvalidParams}, {"invalid result", llmqueue.ErrInvalidResult},
	{"duplicate", llmqueue.ErrDuplicateRequest}, {"full", llmqueue.ErrQueueFull}, {"closed", llmqueue.ErrQueueClosed},
	{"waited too long", llmqueue.ErrQueueTimeout}, {"too large", llmqueue.ErrRequestTooLarge}, {"canceled", llmqueue.ErrCanceled},
	{"quota", llmqueue.ErrQuotaExhausted}, {"context", context.Canceled}, {"deadline", context.DeadlineExceeded},
}

var dates = regexp.MustCompile(`\d{4}-\d\d-\d\dT[\d:]+(Z|[+-]\d\d:\d\d)`)

// text is what an error says, with names for those that callers tell apart, so that their
// own words may change.
func (s *stage) text(model, id string, err error) string {
	if err == nil {
		return ""
	}
	text := err.Error()
	for _, m := range s.models {
		text = strings.ReplaceAll(text, fmt.Sprintf("llmqueue: model %q, request %q: failed after", m.id, id), "failed after")
	}
	for _, k := range tellApart {
		name := "<" + k.name + ">"
		if text = strings.NewReplacer(k.err.Error(), name, strings.TrimPrefix(k.err.Error(), "llmqueue: "), name).Replace(text); errors.Is(err, k.err) && !strings.Contains(text, name) {
			text += " and " + name
		}
	}
	if errors.Is(err, errStory) && !strings.Contains(text, "boom") {
		text += " and boom"
	}
	if pe := (*llmqueue.ProcessingError)(nil); errors.As(err, &pe) {
		assert.Equal(s.t, id, pe.RequestID)
	}
	text = dates.ReplaceAllStringFunc(text, func(date string) string {
		at, err := time.Parse(time.RFC3339, date)
		assert.NoError(s.t, err)
		return s.at(at)
	})
	return ": " + strings.ReplaceAll(text, "\n", " and ")
}
