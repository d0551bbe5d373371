package cost

import (
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/llmqueue/llmqueue/bench/internal/contender"
)

// Whatever its figures say, a contender counts only if it does the work: every job
// once, with the right result.
func TestContendersDoTheWork(t *testing.T) {
	const jobs = 5_000
	for _, scenario := range Scenarios(jobs, jobs) {
		for _, c := range contender.All {
			t.Run(scenario.Name+"/"+c.Name, func(t *testing.T) {
				done := make([]atomic.Int32, jobs)
				cost, err := scenario.Run(c, func(n int) int {
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
				if cost.Nanoseconds <= 0 || cost.Bytes < 0 || cost.Allocs < 0 {
					t.Errorf("it cost %+v", cost)
				}
			})
		}
	}
}

// A contender with fewer workers at work than the others, or more, or one whose Drain
// does not wait, would be measured in a scenario of its own.
func TestContendersUseAllWorkers(t *testing.T) {
	const workers, jobs = 16, 160
	for name, run := range map[string]func(contender.Contender, contender.Work) (Cost, error){
		"submit and wait": RoundTrip(128, workers, jobs),
		"fire and forget": FireAndForget(jobs, workers),
	} {
		for _, c := range contender.All {
			t.Run(name+"/"+c.Name, func(t *testing.T) {
				var come, running, most, done atomic.Int32
				var together sync.WaitGroup
				together.Add(workers)
				_, err := run(c, func(n int) int {
					raise(&most, running.Add(1))
					if come.Add(1) <= workers {
						together.Done()
						together.Wait() // for ever, unless so many may be at work
					}
					time.Sleep(time.Millisecond) // time enough for one too many to come
					running.Add(-1)
					done.Add(1)
					return Job(n)
				})
				if err != nil {
					t.Fatal(err)
				}
				if most.Load() != workers || done.Load() != jobs {
					t.Errorf("%d jobs at once, want %d; %d done at the end, want %d", most.Load(), workers, done.Load(), jobs)
				}
			})
		}
	}
}

// raise sets most to now if that is more.
func raise(most *atomic.Int32, now int32) {
	for seen := most.Load(); now > seen && !most.CompareAndSwap(seen, now); seen = most.Load() {
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
