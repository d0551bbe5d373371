package bifrost

import (
	"fmt"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/llmqueue/llmqueue/bench/internal/cost"
)

const workers = 16

// Whoever does not answer right, or has more or fewer calls under way than the others,
// is measured in vain.
func TestContendersAnswer(t *testing.T) {
	for _, c := range contenders {
		t.Run(c.Name, func(t *testing.T) {
			var calls, running, most atomic.Int32
			count := func(n int) int {
				calls.Add(1)
				now := running.Add(1)
				for seen := most.Load(); now > seen && !most.CompareAndSwap(seen, now); seen = most.Load() {
				}
				time.Sleep(10 * time.Millisecond)
				running.Add(-1)
				return cost.Job(n)
			}
			if _, err := cost.RoundTrip(1, workers, 1)(c, count); err != nil {
				t.Fatal(err)
			}
			if calls.Load() != 1 || most.Load() != 1 {
				t.Fatalf("one question made %d calls", calls.Load())
			}
			if _, err := cost.RoundTrip(128, workers, 256)(c, count); err != nil {
				t.Fatal(err)
			}
			if calls.Load() != 1+256 || most.Load() != workers {
				t.Errorf("257 questions made %d calls, at most %d at once, want %d", calls.Load(), most.Load(), workers)
			}
		})
	}
}

func TestWrongAnswerIsAnError(t *testing.T) {
	for _, c := range contenders {
		if _, err := cost.RoundTrip(1, 1, 1)(c, func(n int) int { return n }); err == nil {
			t.Errorf("%s answered wrong, and it was counted", c.Name)
		}
	}
}

// BenchmarkRoundTrip has callers ask one question after the other and wait for each
// answer, 16 calls at once. The contenders take turns, b.N passes after one that warms
// up; one operation is a pass. What it reports are medians of the passes.
func BenchmarkRoundTrip(b *testing.B) {
	for _, callers := range []int{1, 128} {
		calls := 2_000
		if callers > 1 {
			calls = 8_000
		}
		b.Run(fmt.Sprintf("callers=%d", callers), func(b *testing.B) {
			defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(2))
			summaries, err := cost.Compare(cost.Scenario{Name: b.Name(), Run: cost.RoundTrip(callers, workers, calls)}, contenders, b.N)
			if err != nil {
				b.Fatal(err)
			}
			b.ReportMetric(0, "ns/op") // of all together says nothing
			for _, s := range summaries {
				name := dashed(s.Name)
				b.ReportMetric(s.Cost.Nanoseconds, name+"-ns/call")
				b.ReportMetric(s.Cost.Allocs, name+"-allocs/call")
				b.ReportMetric(s.Cost.Bytes, name+"-B/call")
				b.ReportMetric(s.Ratio, name+"-x-"+dashed(summaries[0].Name))
			}
		})
	}
}

func dashed(name string) string { return strings.ReplaceAll(name, " ", "-") }
