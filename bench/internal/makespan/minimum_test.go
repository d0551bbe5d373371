package makespan

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/openai/openai-go/v3/option"

	"github.com/llmqueue/llmqueue/llmtest"
)

// costing is a question of that many tokens: a fourth of them in the prompt.
func costing(n int64) Question {
	in := max(n/4, 1)
	return Question{Prompt: strings.Repeat("word", int(in)), MaxTokens: n - in}
}

func batchOf(costs ...int64) []Question {
	questions := make([]Question, len(costs))
	for i, n := range costs {
		questions[i] = costing(n)
	}
	return questions
}

func enforcement(t *testing.T, name string) Enforcement {
	t.Helper()
	e, err := EnforcementNamed(name)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func TestEarliestStartsByHand(t *testing.T) {
	const plenty = 1 << 30
	s := func(seconds ...float64) []time.Duration {
		var d []time.Duration
		for _, x := range seconds {
			d = append(d, time.Duration(x*float64(time.Second)))
		}
		return d
	}
	for _, tt := range []struct {
		why, enforcement string
		requests, tokens int64
		costs            []int64
		want             []time.Duration
	}{
		{"two in any period", "sliding", 2, plenty, []int64{9, 9, 9, 9, 9}, s(0, 0, 6, 6, 12)},
		{"ten tokens in any period", "sliding", plenty, 10, []int64{6, 4, 5, 6, 4}, s(0, 0, 6, 12, 12)},
		{"a charge leaves on its own, not with its window", "sliding", plenty, 12, []int64{6, 6, 12, 6, 6}, s(0, 0, 6, 12, 12)},
		{"two in each period", "fixed", 2, plenty, []int64{9, 9, 9, 9, 9}, s(0, 0, 6, 6, 12)},
		{"what does not fit waits for the next period", "fixed", plenty, 10, []int64{6, 6, 4, 1}, s(0, 6, 6, 12)},
		{"a full bucket, then one every three seconds", "bucket", 2, plenty, []int64{9, 9, 9, 9, 9}, s(0, 0, 3, 6, 9)},
		{"tokens come back evenly", "bucket", plenty, 12, []int64{8, 8, 12}, s(0, 2, 8)},
		{"both limits bind", "bucket", 2, 12, []int64{4, 8, 6, 6}, s(0, 0, 3, 6)},
		{"one in each second", "quantized", 6, plenty, []int64{9, 9, 9}, s(0, 1, 2)},
		{"ten tokens in each second", "quantized", plenty, 60, []int64{6, 4, 5, 6}, s(0, 0, 1, 2)},
		{"what is larger takes up the seconds after it", "quantized", plenty, 60, []int64{25, 6, 4, 1}, s(0, 3, 3, 4)},
		{"and leaves what is left of the last of them", "quantized", plenty, 60, []int64{25, 5, 1}, s(0, 2, 3)},
		{"and the parts of a period sum up to the amount", "quantized", 8, plenty, []int64{9, 9, 9, 9, 9, 9, 9, 9, 9}, s(0, 1, 2, 2, 3, 4, 5, 5, 6)},
	} {
		var got []time.Duration
		for _, s := range schedule(enforcement(t, tt.enforcement), Limits{tt.requests, tt.tokens, 6 * time.Second}, batchOf(tt.costs...)) {
			got = append(got, s.at)
		}
		if !slices.Equal(got, tt.want) {
			t.Errorf("%s, %s: calls of %v tokens start at %v, want %v", tt.enforcement, tt.why, tt.costs, got, tt.want)
		}
	}
}

// What the schedule says is possible the simulator lets through, and a nanosecond
// earlier it refuses each call that had to wait.
func TestScheduleIsTheEarliestThatTheSimulatorAllows(t *testing.T) {
	const calls = 60
	limits := Limits{Requests: 13, Tokens: 3001, Period: 6 * time.Second} // which nothing divides
	for _, e := range Enforcements {
		for seed := range uint64(5) {
			random := rand.New(rand.NewPCG(seed, 0))
			costs := make([]int64, calls)
			for i := range costs {
				costs[i] = 50 + random.Int64N(400)
			}
			questions := batchOf(costs...)
			starts := schedule(e, limits, questions)
			early := -1 // nobody
			refusedAt := func() (refused int64) {
				t.Run(fmt.Sprintf("%s/%d/%d", e.Name, seed, early), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						_, srv, p := startedFor(t, e, limits, questions)
						client := p.Client(option.WithMaxRetries(0))
						var all sync.WaitGroup
						from := time.Now()
						for i, q := range questions {
							at := starts[i].at
							if i == early {
								at--
							}
							if i > early && early >= 0 {
								break
							}
							time.Sleep(at - time.Since(from))
							all.Go(func() { _, _ = chat(t.Context(), client, q) })
							synctest.Wait() // it has arrived
						}
						all.Wait()
						refused = srv.Stats().Refused
					})
				})
				return refused
			}
			if n := refusedAt(); n != 0 {
				t.Errorf("%s, seed %d: of calls that start when the schedule says %d are refused", e.Name, seed, n)
			}
			for early = 1; early < calls; early++ {
				if starts[early].waited == notAtAll || starts[early].at == starts[early-1].at {
					continue
				}
				if n := refusedAt(); n != 1 {
					t.Errorf("%s, seed %d: call %d, a nanosecond before it may start: %d calls are refused, want 1", e.Name, seed, early, n)
				}
				early += 7 // some of them are enough
			}
		}
	}
}

func startedFor(t *testing.T, e Enforcement, l Limits, questions []Question) (Trial, *llmtest.Server, Provider) {
	t.Helper()
	trial := Trial{Enforcement: e, Limits: l, Questions: questions, Bound: time.Hour, Options: []llmtest.Option{llmtest.InMemory()}}
	p, srv, err := trial.start(e.limits(l))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(srv.Close)
	return trial, srv, p
}

// No order of the calls beats the bound that holds in any order, and where it is easy to
// see, the bound is reached.
func TestNoOrderBeatsTheMinimum(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 0))
	for _, e := range Enforcements {
		for range 50 {
			limits := Limits{Requests: 6 * (1 + random.Int64N(4)), Tokens: 600 * (4 + random.Int64N(4)), Period: 6 * time.Second}
			questions := make([]Question, 80)
			latencies := make([]time.Duration, len(questions))
			for i := range questions {
				questions[i] = costing(10 + random.Int64N(390))
				latencies[i] = time.Duration(1+random.Int64N(3000)) * time.Millisecond
			}
			least := MinimumOf(e, limits, questions, latencies)
			for range 20 {
				random.Shuffle(len(questions), func(i, j int) {
					questions[i], questions[j] = questions[j], questions[i]
					latencies[i], latencies[j] = latencies[j], latencies[i]
				})
				m := MinimumOf(e, limits, questions, latencies)
				if m.InOrder < least.AnyOrder || m.AnyOrder != least.AnyOrder {
					t.Fatalf("%s: %v in some order, and in any order at least %v and %v", e.Name, m.InOrder, least.AnyOrder, m.AnyOrder)
				}
			}
		}
	}
	even := make([]int64, 48)
	same := make([]time.Duration, len(even))
	for i := range even {
		even[i], same[i] = 100, time.Second
	}
	for name, want := range map[string]time.Duration{
		"sliding":   (48/12-1)*6*time.Second + time.Second,
		"fixed":     (48/12-1)*6*time.Second + time.Second,
		"bucket":    (48-12)*time.Second/2 + time.Second,
		"quantized": (48/2-1)*time.Second + time.Second,
	} {
		m := MinimumOf(enforcement(t, name), Limits{12, 1 << 30, 6 * time.Second}, batchOf(even...), same)
		if m.InOrder != want || m.AnyOrder > want || m.AnyOrder < want-time.Second {
			t.Errorf("%s: %v in order and %v in any, want %v", name, m.InOrder, m.AnyOrder, want)
		}
		if m.ByRequests == 0 || m.ByTokens != 0 {
			t.Errorf("%s: %d calls waited for requests and %d for tokens, of which there are plenty", name, m.ByRequests, m.ByTokens)
		}
	}
}

// The last calls to start take at least as long as as many of the shortest.
func TestMinimumCountsWhatStartsLast(t *testing.T) {
	latencies := []time.Duration{1, 2, 3, 4}
	for i := range latencies {
		latencies[i] *= time.Second
	}
	m := MinimumOf(enforcement(t, "sliding"), Limits{2, 1000, 6 * time.Second}, batchOf(1, 1, 1, 1), latencies)
	if want := 8 * time.Second; m.AnyOrder != want {
		t.Errorf("two start at 6s, one of which takes at least 2s: %v, want %v", m.AnyOrder, want)
	}
	m = MinimumOf(enforcement(t, "sliding"), Limits{1000, 600, 6 * time.Second}, batchOf(300, 300, 200, 200), latencies)
	if want := 8 * time.Second; m.AnyOrder != want {
		t.Errorf("two of them start at 6s even if they are the largest: %v, want %v", m.AnyOrder, want)
	}
	m = MinimumOf(enforcement(t, "sliding"), Limits{1000, 600, 6 * time.Second}, batchOf(300, 300, 100, 100), latencies)
	if want := 7 * time.Second; m.AnyOrder != want {
		t.Errorf("only one needs to, if it is large: %v, want %v", m.AnyOrder, want)
	}
}

// The last call in slices may take up slices after it.
func TestMinimumOfALargeCallInSlices(t *testing.T) {
	m := MinimumOf(enforcement(t, "quantized"), Limits{60, 60, 6 * time.Second}, batchOf(10, 10, 25), []time.Duration{1, 1, 1})
	if want := 2*time.Second + 1; m.InOrder != want || m.AnyOrder > want {
		t.Errorf("two calls fill a second each, and the third starts in the one after: %v, and at least %v, want %v", m.InOrder, m.AnyOrder, want)
	}
}

func TestLatenciesAreThoseOfTheSimulator(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		limits := Limits{1 << 20, 1 << 30, 6 * time.Second}
		questions := Sample()
		trial, srv, p := startedFor(t, enforcement(t, "bucket"), limits, questions)
		latencies, err := trial.Latencies(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		client := p.Client()
		for _, q := range questions {
			if _, err := chat(context.Background(), client, q); err != nil {
				t.Fatal(err)
			}
		}
		for i, a := range srv.Arrivals() {
			if a.Duration != latencies[i] {
				t.Errorf("question %d took %v, and was said to take %v", i, a.Duration, latencies[i])
			}
			if a.Charged != questions[i].tokens() {
				t.Errorf("question %d was charged %d tokens, and was said to be charged %d", i, a.Charged, questions[i].tokens())
			}
		}
	})
}
