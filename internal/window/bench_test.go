package window

import (
	"testing"
	"time"
)

// The bench windows run full: every step one charge starts and about one
// leaves, with 4,000 in the window.
const (
	benchLive = 4000
	benchStep = time.Minute / benchLive
)

func BenchmarkReserve(b *testing.B) {
	start := time.Now()
	b.Run("rpm+tpm", func(b *testing.B) {
		s := NewSet(start, []Limit{
			{Kind: Requests, Amount: benchLive + 1, Period: time.Minute},
			{Kind: Tokens, Amount: (benchLive + 1) * 1000, Period: time.Minute},
		})
		now := start
		for range 2 * benchLive {
			now = now.Add(benchStep)
			s.Reserve(now, Charge{1, 600, 400})
		}
		b.ReportAllocs()
		for b.Loop() {
			now = now.Add(benchStep)
			if _, ok := s.Reserve(now, Charge{1, 600, 400}); !ok {
				b.Fatal("refused")
			}
		}
	})
	b.Run("baseline ring", func(b *testing.B) {
		r := ring{epoch: start, period: int64(time.Minute), rpm: benchLive + 1, tpm: (benchLive + 1) * 1000}
		now := start
		for range 2 * benchLive {
			now = now.Add(benchStep)
			r.reserve(now, 1000)
		}
		b.ReportAllocs()
		for b.Loop() {
			now = now.Add(benchStep)
			if !r.reserve(now, 1000) {
				b.Fatal("refused")
			}
		}
	})
}

// ring is the plainest exact window of requests and tokens: no settling, no
// growth, one kind of clock.
type ring struct {
	epoch          time.Time
	period         int64
	rpm, tpm       int64
	requests, used int64
	head, tail     uint64
	entries        [4096]struct{ at, tokens int64 }
}

//go:noinline
func (r *ring) reserve(now time.Time, tokens int64) bool {
	t := int64(now.Sub(r.epoch))
	for r.head != r.tail {
		e := &r.entries[r.head%4096]
		if t-e.at < r.period {
			break
		}
		r.requests--
		r.used -= e.tokens
		r.head++
	}
	if r.requests+1 > r.rpm || r.used+tokens > r.tpm || r.tail-r.head == 4096 {
		return false
	}
	r.requests++
	r.used += tokens
	r.entries[r.tail%4096] = struct{ at, tokens int64 }{t, tokens}
	r.tail++
	return true
}

func BenchmarkReserveSettle(b *testing.B) {
	now := time.Now()
	s := NewSet(now, []Limit{
		{Kind: Requests, Amount: benchLive + 1, Period: time.Minute},
		{Kind: Tokens, Amount: (benchLive + 1) * 1000, Period: time.Minute},
	})
	var flight [16]Reservation
	i := 0
	b.ReportAllocs()
	for b.Loop() {
		now = now.Add(benchStep)
		r := &flight[i%len(flight)]
		s.Settle(now, r, Charge{1, 600, 100})
		*r, _ = s.Reserve(now, Charge{1, 600, 400})
		i++
	}
}

// The same as BenchmarkReserveSettle on the engine's clock.
func BenchmarkReserveSettleAt(b *testing.B) {
	s := NewSet(time.Now(), []Limit{
		{Kind: Requests, Amount: benchLive + 1, Period: time.Minute},
		{Kind: Tokens, Amount: (benchLive + 1) * 1000, Period: time.Minute},
	})
	var flight [16]Reservation
	i, ns := 0, int64(0)
	b.ReportAllocs()
	for b.Loop() {
		ns += int64(benchStep)
		r := &flight[i%len(flight)]
		s.SettleAt(ns, r, Charge{1, 600, 100})
		*r, _ = s.ReserveAt(ns, Charge{1, 600, 400})
		i++
	}
}

// A long line asks for a forecast at every Submit while starts and settlements
// go on.
func BenchmarkForecast(b *testing.B) {
	now := time.Now()
	s := NewSet(now, []Limit{
		{Kind: Requests, Amount: benchLive, Period: time.Minute},
		{Kind: Tokens, Amount: benchLive * 1000, Period: time.Minute},
	})
	var r Reservation
	for range benchLive {
		now = now.Add(benchStep)
		r, _ = s.Reserve(now, Charge{1, 600, 400})
	}
	b.ReportAllocs()
	ahead := Charge{}
	for b.Loop() {
		ahead.Requests++
		ahead.Input += 1000
		s.Forecast(now, ahead, Charge{1, 600, 400})
		if ahead.Requests%4 == 0 {
			now = now.Add(benchStep)
			s.Settle(now, &r, Charge{1, 600, 399})
			r, _ = s.Reserve(now, Charge{1, 600, 400})
		}
	}
}
