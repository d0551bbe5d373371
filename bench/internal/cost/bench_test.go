package cost

import (
	"runtime"
	"strings"
	"testing"

	"github.com/llmqueue/llmqueue/bench/internal/contender"
)

// The benchmarks are the scenarios of the command, for benchstat.

func BenchmarkSubmitAndWait1(b *testing.B) {
	each(b, func(b *testing.B) Scenario { return Scenario{Run: RoundTrip(1, 16, b.N)} })
}

func BenchmarkSubmitAndWait128(b *testing.B) {
	each(b, func(b *testing.B) Scenario { return Scenario{Run: RoundTrip(128, 16, b.N)} })
}

func BenchmarkFireAndForget(b *testing.B) {
	each(b, func(b *testing.B) Scenario { return Scenario{Run: FireAndForget(b.N, 16)} })
}

func each(b *testing.B, scenario func(*testing.B) Scenario) {
	for _, c := range contender.All {
		b.Run(c.Name, func(b *testing.B) {
			b.ReportAllocs()
			if _, err := scenario(b).Run(c, Job); err != nil {
				b.Fatal(err)
			}
		})
	}
}

// The benchmarks below measure their contenders in turns, b.N passes of them after
// one that warms up, and report each one's ratio to the first in the same pass.

// BenchmarkBesideAnts enqueues 100,000 jobs and drains them. One operation is a pass.
func BenchmarkBesideAnts(b *testing.B) {
	beside(b, FireAndForget(100_000, 16), contender.Ants)
}

// BenchmarkAcquireAndDone has one caller take leave for a job, do it and give the leave
// back, 200,000 times. One operation is a pass.
func BenchmarkAcquireAndDone(b *testing.B) {
	beside(b, RoundTrip(1, 16, 200_000), contender.Permits)
}

func beside(b *testing.B, run func(contender.Contender, contender.Work) (Cost, error), contenders []contender.Contender) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(2))
	summaries, err := Compare(Scenario{Name: b.Name(), Run: run}, contenders, b.N)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(0, "ns/op") // of all together says nothing
	for _, s := range summaries {
		name := strings.Join(strings.Fields(s.Name), "-")
		b.ReportMetric(s.Cost.Nanoseconds, name+"-ns/job")
		b.ReportMetric(s.Ratio, name+"-x-"+strings.Join(strings.Fields(contenders[0].Name), "-"))
	}
}
