package cost

import (
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
