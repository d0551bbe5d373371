package cost

import (
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/llmqueue/llmqueue/bench/internal/contender"
)

const calls = 5_000

// Whatever its figures say, a contender counts only if it does the work: every job
// once, the right result, and never more at once than it has workers.
func TestContendersDoTheWork(t *testing.T) {
	const workers = 16
	for _, scenario := range Scenarios(calls) {
		jobs := calls
		if strings.Contains(scenario.Name, "100,000") {
			jobs = 100_000
		}
		for _, c := range contender.All {
			t.Run(scenario.Name+"/"+c.Name, func(t *testing.T) {
				done := make([]atomic.Int32, jobs)
				var running, most atomic.Int32
				cost, err := scenario.Run(c, func(n int) int {
					now := running.Add(1)
					defer running.Add(-1)
					for seen := most.Load(); now > seen && !most.CompareAndSwap(seen, now); seen = most.Load() {
					}
					done[n].Add(1)
					return Job(n)
				})
				if err != nil {
					t.Fatal(err)
				}
				for n := range done {
					if times := done[n].Load(); times != 1 {
						t.Fatalf("job %d was done %d times", n, times)
					}
				}
				if most.Load() > workers {
					t.Errorf("%d jobs ran at once, allowed are %d", most.Load(), workers)
				}
				if cost.Nanoseconds <= 0 || cost.Bytes < 0 || cost.Allocs < 0 {
					t.Errorf("it cost %+v", cost)
				}
			})
		}
	}
}

// A contender that used fewer workers than it may would have another scenario.
func TestContendersUseAllWorkers(t *testing.T) {
	const workers = 16
	for name, run := range map[string]func(contender.Contender, contender.Work) (Cost, error){
		"submit and wait": RoundTrip(workers, workers, workers),
		"fire and forget": FireAndForget(workers, workers),
	} {
		for _, c := range contender.All {
			t.Run(name+"/"+c.Name, func(t *testing.T) {
				var together sync.WaitGroup
				together.Add(workers)
				_, err := run(c, func(n int) int {
					together.Done()
					together.Wait() // for ever, unless all are here
					return Job(n)
				})
				if err != nil {
					t.Fatal(err)
				}
			})
		}
	}
}

func TestWrongResultIsAnError(t *testing.T) {
	for _, c := range contender.All {
		_, err := RoundTrip(4, 2, 100)(c, func(n int) int { return n })
		if err == nil {
			t.Errorf("%s returned wrong results, and they were counted", c.Name)
		}
	}
}

func TestSummary(t *testing.T) {
	contenders := []contender.Contender{{Name: "bare"}, {Name: "other"}}
	got := summarize(contenders, [][]Cost{
		{{Nanoseconds: 100}, {Nanoseconds: 200}, {Nanoseconds: 400}},
		{{400, 32, 2}, {400, 48, 3}, {1200, 32, 2}}, // 4, 2 and 3 times as much as the bare one in the same pass
	})
	want := []Summary{
		{Name: "bare", Cost: Cost{Nanoseconds: 200}, Ratio: 1, Lowest: 1, Highest: 1},
		{Name: "other", Cost: Cost{400, 32, 2}, Ratio: 3, Lowest: 2, Highest: 4},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	if m := median([]float64{4, 1, 3, 2}); m != 2.5 {
		t.Errorf("the median of 4, 1, 3, 2 is %v, want 2.5", m)
	}
}

func TestCompareMeasuresEachInEachPass(t *testing.T) {
	var order []string
	s := Scenario{Run: func(c contender.Contender, _ contender.Work) (Cost, error) {
		order = append(order, c.Name)
		return Cost{Nanoseconds: float64(len(order))}, nil
	}}
	contenders := []contender.Contender{{Name: "a"}, {Name: "b"}, {Name: "c"}}
	got, err := Compare(s, contenders, 2)
	if err != nil {
		t.Fatal(err)
	}
	if order := strings.Join(order, ""); order != "abcbcacab" {
		t.Errorf("measured in the order %s", order)
	}
	// The first pass, which warms up, does not count.
	if a := got[0].Cost.Nanoseconds; got[0].Name != "a" || a != 7 {
		t.Errorf("a has %v, want 7, the median of 6 and 8", a)
	}
}
