package line

import (
	"fmt"
	"math/rand/v2"
	"testing"
)

// names returns the names of n tenants.
func names(n int) []string {
	s := make([]string, n)
	for i := range s {
		s[i] = fmt.Sprintf("tenant-%d", i)
	}
	return s
}

// lined returns a line in which n requests of those tenants wait in turn, with
// the handles from 0.
func lined(n int, tenants []string) *Line {
	l := &Line{}
	for h := range n {
		l.Push(uint32(h), 0, tenants[h%len(tenants)], 0.002)
	}
	return l
}

func sizes(b *testing.B, run func(b *testing.B, depth int, tenants []string)) {
	for _, tenants := range []int{1, 1000} {
		for _, depth := range []int{10_000, 1_000_000} {
			b.Run(fmt.Sprintf("tenants=%d/waiting=%d", tenants, depth), func(b *testing.B) {
				run(b, depth, names(tenants))
			})
		}
	}
}

// BenchmarkPushPop is one request joining and one starting, at a constant depth.
func BenchmarkPushPop(b *testing.B) {
	sizes(b, func(b *testing.B, depth int, tenants []string) {
		l := lined(depth, tenants)
		free, next := uint32(depth), 0
		b.ReportAllocs()
		for b.Loop() {
			l.Push(free, 0, tenants[next], 0.002)
			free, _ = l.Pop()
			if next++; next == len(tenants) {
				next = 0
			}
		}
	})
}

// BenchmarkPushPopIdle is the same in a line that is empty in between.
func BenchmarkPushPopIdle(b *testing.B) {
	l := &Line{}
	b.ReportAllocs()
	for b.Loop() {
		l.Push(7, 0, "tenant", 0.002)
		l.Pop()
	}
}

// BenchmarkRemove is a request leaving from anywhere and another one joining.
func BenchmarkRemove(b *testing.B) {
	sizes(b, func(b *testing.B, depth int, tenants []string) {
		l := lined(depth, tenants)
		r := rand.New(rand.NewPCG(1, 2))
		next := 0
		b.ReportAllocs()
		for b.Loop() {
			h := uint32(r.IntN(depth))
			l.Remove(h)
			l.Push(h, 0, tenants[next], 0.002)
			if next++; next == len(tenants) {
				next = 0
			}
		}
	})
}

// BenchmarkRank is the position of the request that joined last, with others
// canceled ahead of it.
func BenchmarkRank(b *testing.B) {
	sizes(b, func(b *testing.B, depth int, tenants []string) {
		l := lined(depth, tenants)
		for h := depth / 3; h < depth/2; h += 2 {
			l.Remove(uint32(h))
		}
		b.ReportAllocs()
		for b.Loop() {
			l.Rank(uint32(depth - 1))
		}
	})
}
