package makespan

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/openai/openai-go/v3"

	"github.com/llmqueue/llmqueue"
	"github.com/llmqueue/llmqueue/llmhttp"
	"github.com/llmqueue/llmqueue/llmtest"
)

func contestant(t *testing.T, name string) Contestant {
	t.Helper()
	for _, c := range All {
		if c.Name == name {
			return c
		}
	}
	t.Fatalf("no contestant is called %q", name)
	return Contestant{}
}

// race runs a trial in virtual time and returns the ratio to the minimum as well.
func race(t *testing.T, trial Trial, c Contestant) (res Result, ratio float64) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		trial.Options = append([]llmtest.Option{llmtest.InMemory()}, trial.Options...)
		latencies, err := trial.Latencies(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		least := MinimumOf(trial.Enforcement, trial.Limits, trial.Questions, latencies)
		trial.Bound = 8 * least.AnyOrder
		if res, err = trial.Run(t.Context(), c); err != nil {
			t.Fatal(err)
		}
		ratio = res.Wall.Seconds() / least.InOrder.Seconds()
		if res.Answered() && res.Wall < least.AnyOrder {
			t.Errorf("%s takes %v, and nobody can take less than %v", c.Name, res.Wall, least.AnyOrder)
		}
	})
	return res, ratio
}

func sampleTrial(e Enforcement, l Limits) Trial {
	return Trial{Enforcement: e, Limits: l, Questions: Sample(), Margin: l.Period / 120}
}

// Under limits that never bind everyone has every question answered, once.
func TestEveryoneAnswersEverything(t *testing.T) {
	names := make(map[string]bool)
	for _, c := range All {
		if c.Name == "" || c.Setup == "" || names[c.Name] {
			t.Errorf("%q is no name of its own, or has no setup", c.Name)
		}
		names[c.Name] = true
		for _, e := range Enforcements {
			t.Run(c.Name+"/"+e.Name, func(t *testing.T) {
				trial := sampleTrial(e, Limits{6_000_000, 600_000_000, 6 * time.Second})
				var sum int64
				for _, q := range trial.Questions {
					sum += q.tokens()
				}
				var st llmtest.Stats
				watched := c
				watched.New = func(p Provider) (Ask, func() error, error) {
					ask, stop, err := c.New(p)
					return ask, func() error { st = p.Server.Stats(); return stop() }, err
				}
				res, _ := race(t, trial, watched)
				if !res.Answered() || res.Refused != 0 || res.Wasted != 0 || res.Err != nil {
					t.Errorf("%d failed, %d refused, %d tokens wasted, %v", res.Failed, res.Refused, res.Wasted, res.Err)
				}
				if st.Completed != int64(len(trial.Questions)) || st.TokensCharged != sum {
					t.Errorf("the provider answered %d calls and charged %d tokens, want %d and %d", st.Completed, st.TokensCharged, len(trial.Questions), sum)
				}
			})
		}
	}
}

// What is known of everyone, on an exact network: who is refused, and who needs how
// long. Requests are what binds: 12 per period, 60 of them.
func TestWhatLimitsDoToEveryone(t *testing.T) {
	const never, sometimes = false, true
	type verdict struct {
		refused     bool
		least, most float64 // times the minimum; 0: it is not all that is answered
	}
	limits := Limits{12, 6000, 6 * time.Second}
	for name, want := range map[string]map[string]verdict{
		"llmqueue": {
			"bucket": {never, 0.97, 1.02}, "sliding": {never, 0.97, 1.02}, "fixed": {never, 0.97, 1.02},
		},
		"llmqueue, with Burst": {
			"bucket": {never, 0.97, 3}, "sliding": {never, 0.97, 3}, "fixed": {never, 0.97, 3}, "quantized": {never, 0.97, 3},
		},
		"SDK alone":             {"sliding": {sometimes, 0, 0}, "fixed": {sometimes, 0, 0}, "quantized": {sometimes, 0, 0}},
		"semaphore and retries": {"sliding": {sometimes, 0, 8}},
		"x/time/rate, burst 1":  {"bucket": {never, 1.1, 1.4}},
		"x/time/rate, burst N":  {"bucket": {never, 0.97, 1.01}, "sliding": {sometimes, 0, 8}},
		"failsafe-go, bursty":   {"fixed": {never, 0.97, 1.02}},
		"OpenAI's cookbook script": {
			"bucket": {never, 0.97, 1.02}, "sliding": {sometimes, 0.97, 2},
		},
	} {
		for kind, v := range want {
			t.Run(name+"/"+kind, func(t *testing.T) {
				res, ratio := race(t, sampleTrial(enforcement(t, kind), limits), contestant(t, name))
				t.Logf("%.3f times the minimum, %d refused, %d failed", ratio, res.Refused, res.Failed)
				if (res.Refused > 0) != v.refused {
					t.Errorf("%d calls are refused", res.Refused)
				}
				if v.least > 0 && !res.Answered() {
					t.Errorf("%d questions have no answer, the first because: %v", res.Failed, res.Err)
				}
				if v.most == 0 && res.Answered() {
					t.Error("it gets every answer")
				}
				if v.most > 0 && (ratio < v.least || ratio > v.most) {
					t.Errorf("it takes %.3f times the minimum, want %.2f to %.2f", ratio, v.least, v.most)
				}
			})
		}
	}
}

// Where tokens are what binds, they are waited for. At the edge of a bucket or of a
// period some are a nanosecond early.
func TestTokensBindToo(t *testing.T) {
	limits := Limits{600, 6000, 6 * time.Second}
	for name, tt := range map[string]struct {
		enforcement string
		refused     int64
	}{
		"llmqueue":                 {"sliding", 0},
		"llmqueue, with Burst":     {"quantized", 0},
		"x/time/rate, burst 1":     {"bucket", 0},
		"x/time/rate, burst N":     {"bucket", 4},
		"failsafe-go, bursty":      {"fixed", 4},
		"OpenAI's cookbook script": {"bucket", 0},
	} {
		t.Run(name, func(t *testing.T) {
			res, ratio := race(t, sampleTrial(enforcement(t, tt.enforcement), limits), contestant(t, name))
			t.Logf("%.3f times the minimum, %d refused", ratio, res.Refused)
			if res.Refused > tt.refused || !res.Answered() {
				t.Errorf("%d calls are refused, %d questions have no answer", res.Refused, res.Failed)
			}
		})
	}
}

// Neither a contestant that never ends nor one that cannot begin holds up the others.
func TestRunsAreBounded(t *testing.T) {
	stopped := false
	stuck := Contestant{Name: "stuck", New: func(Provider) (Ask, func() error, error) {
		return func(ctx context.Context, q Question) error {
				if q.MaxTokens == 1 {
					return nil
				}
				<-ctx.Done()
				return ctx.Err()
			}, func() error {
				stopped = true
				return nil
			}, nil
	}}
	synctest.Test(t, func(t *testing.T) {
		trial, _, _ := startedFor(t, enforcement(t, "bucket"), Limits{10, 1000, time.Second}, []Question{{"a", 1}, {"b", 2}, {"c", 3}})
		trial.Bound = 5 * time.Second
		res, err := trial.Run(t.Context(), stuck)
		if err != nil || res.Wall != trial.Bound || res.Failed != 2 || !errors.Is(res.Err, context.DeadlineExceeded) || !stopped {
			t.Errorf("after %v: %d failed, %v, stopped %v, %v", res.Wall, res.Failed, res.Err, stopped, err)
		}
		broken := errors.New("broken")
		_, err = trial.Run(t.Context(), Contestant{Name: "x", New: func(Provider) (Ask, func() error, error) { return nil, nil, broken }})
		if !errors.Is(err, broken) || !strings.HasPrefix(err.Error(), "x: ") {
			t.Errorf("the error is %v", err)
		}
	})
}

// Questions come in order, but for some that the scheduler holds up.
func TestQuestionsComeInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n = 500
		questions := make([]Question, n)
		for i := range questions {
			questions[i].MaxTokens = int64(i)
		}
		trial, _, _ := startedFor(t, enforcement(t, "bucket"), Limits{1, 1, time.Second}, questions)
		var asked, astray atomic.Int64
		_, err := trial.Run(t.Context(), Contestant{New: func(Provider) (Ask, func() error, error) {
			return func(_ context.Context, q Question) error {
				if d := asked.Add(1) - 1 - q.MaxTokens; d < -8 || d > 8 {
					astray.Add(1)
				}
				return nil
			}, nothingToStop, nil
		}})
		if err != nil || asked.Load() != n || astray.Load() > n/10 {
			t.Errorf("%d of %d questions came, %d far from their place, %v", asked.Load(), n, astray.Load(), err)
		}
	})
}

// refusal is what the SDK makes of a 429.
var refusal error = &openai.Error{StatusCode: http.StatusTooManyRequests}

// A call that the measurement breaks off has used up tokens for nothing.
func TestWastedTokensAreCounted(t *testing.T) {
	trial := sampleTrial(enforcement(t, "bucket"), Limits{60, 60_000, 6 * time.Second})
	trial.Questions = trial.Questions[:1]
	synctest.Test(t, func(t *testing.T) {
		trial.Options = []llmtest.Option{llmtest.InMemory(), llmtest.WithLatency(llmtest.Latency{FirstToken: time.Minute})}
		trial.Bound = time.Second
		res, err := trial.Run(t.Context(), contestant(t, "SDK alone"))
		if err != nil || res.Failed != 1 || res.Wasted != trial.Questions[0].tokens() {
			t.Errorf("%d failed, %d tokens wasted, %v; want 1 and %d", res.Failed, res.Wasted, err, trial.Questions[0].tokens())
		}
	})
}

// The loop does as the script: a new call only where both capacities suffice, one each
// millisecond, none for a while after a refusal, and what failed before what is new.
func TestCookbookLoop(t *testing.T) {
	run := func(t *testing.T, requests, tokens float64, pause time.Duration, questions int, refuse map[int]bool) (starts []time.Duration, order []int64, failed int) {
		t.Helper()
		from, calls := time.Now(), 0
		l := &loop{
			requests: level{capacity: requests, per: 10 * time.Second},
			tokens:   level{capacity: tokens, per: 10 * time.Second},
			pause:    pause,
			quit:     make(chan struct{}),
		}
		l.call = func(_ context.Context, q Question) error {
			l.mu.Lock()
			defer l.mu.Unlock()
			starts, order = append(starts, time.Since(from).Round(10*time.Millisecond)), append(order, q.MaxTokens)
			calls++
			if refuse[calls] {
				return refusal
			}
			return nil
		}
		results := make(chan error, questions)
		for i := range questions {
			go func() { results <- l.ask(t.Context(), Question{"", int64(i + 1)}) }()
			synctest.Wait() // in this order
		}
		l.running.Go(l.run)
		for range questions {
			if <-results != nil {
				failed++
			}
		}
		if err := l.stop(); err != nil {
			t.Fatal(err)
		}
		return starts, order, failed
	}
	check := func(t *testing.T, what string, got, want []time.Duration) {
		t.Helper()
		if len(got) != len(want) {
			t.Fatalf("%s: %v, want %v", what, got, want)
		}
		for i := range got {
			if d := got[i] - want[i]; d.Abs() > 20*time.Millisecond {
				t.Errorf("%s: %v, want %v", what, got, want)
				return
			}
		}
	}
	const s = time.Second
	full := level{capacity: 2, per: 10 * s, left: 1}
	full.refill(4 * s)
	if full.left != 1.8 {
		t.Errorf("four seconds bring %v, want 0.8", full.left-1)
	}
	if full.refill(20 * s); full.left != 2 {
		t.Errorf("it holds %v, and cannot hold more than 2", full.left)
	}
	synctest.Test(t, func(t *testing.T) {
		starts, _, _ := run(t, 2, 1000, 0, 4, nil)
		check(t, "two, then one each five seconds", starts, []time.Duration{0, 0, 5 * s, 10 * s})
	})
	synctest.Test(t, func(t *testing.T) {
		starts, _, _ := run(t, 1000, 4, 0, 4, nil) // of 1, 2, 3 and 4 tokens
		check(t, "tokens", starts, []time.Duration{0, 0, 5 * s, 15 * s})
	})
	synctest.Test(t, func(t *testing.T) {
		starts, order, failed := run(t, 1000, 1000, 3*s, 3, map[int]bool{2: true})
		check(t, "a pause after the second was refused", starts, []time.Duration{0, 0, 3 * s, 3 * s})
		if failed != 0 || order[1] != 2 || order[2] != 2 || order[3] != 3 {
			t.Errorf("%d failed, order %v: the refused call comes again first", failed, order)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		all := map[int]bool{1: true, 2: true, 3: true, 4: true, 5: true, 6: true}
		starts, _, failed := run(t, 1000, 1000, s, 1, all)
		check(t, "five attempts", starts, []time.Duration{0, s, 2 * s, 3 * s, 4 * s})
		if failed != 1 {
			t.Errorf("%d failed, want the one", failed)
		}
	})
}

// What the simulator announces without a period, the transport reads with one.
func TestRestatedLimitsAreUnderstood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for kind, want := range map[string][]llmqueue.ObservedLimit{
			"sliding": {
				{Kind: llmqueue.KindRPM, Period: 6 * time.Second, Amount: 12, Remaining: 11, Reset: 6 * time.Second},
				{Kind: llmqueue.KindTPM, Period: 6 * time.Second, Amount: 6000, Remaining: 5900, Reset: 6 * time.Second}},
			"quantized": {
				{Kind: llmqueue.KindRPM, Period: time.Second, Amount: 2, Remaining: 1, Reset: time.Second},
				{Kind: llmqueue.KindTPM, Period: time.Second, Amount: 1000, Remaining: 900, Reset: time.Second}},
		} {
			_, srv, p := startedFor(t, enforcement(t, kind), Limits{12, 6000, 6 * time.Second}, batchOf(100))
			client := &http.Client{Transport: restate{srv.Client().Transport, p.Announced}}
			body := `{"model":"m","max_tokens":99,"messages":[{"role":"user","content":"word"}]}`
			res, err := client.Post(srv.URL()+"/chat/completions", "application/json", strings.NewReader(body))
			if err != nil {
				t.Fatal(err)
			}
			res.Body.Close()
			got := llmhttp.ParseLimits(res.Header, time.Now())
			if len(got) != 2 || got[0] != want[0] || got[1] != want[1] {
				t.Errorf("%s: %+v, want %+v", kind, got, want)
			}
		}
	})
}
