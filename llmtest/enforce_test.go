package llmtest

import (
	"fmt"
	"math/big"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"
)

// A past is a charge that was let in, as the brute-force models see it.
type past struct {
	at time.Duration
	n  int64
}

// fits are the definitions of the strategies, straight from their comments and
// as slow as they come.
var fits = map[Strategy]func(l Limit, history []past, now time.Duration, n int64) bool{
	SlidingWindow: func(l Limit, history []past, now time.Duration, n int64) bool {
		for _, p := range history {
			if p.at > now-l.Period {
				n += p.n
			}
		}
		return n <= l.Amount
	},
	FixedWindow: func(l Limit, history []past, now time.Duration, n int64) bool {
		for _, p := range history {
			if p.at/l.Period == now/l.Period {
				n += p.n
			}
		}
		return n <= l.Amount
	},
	// A bucket that starts full admits n unless, counted from some earlier
	// charge, more would have gone than its content plus what it gained since.
	TokenBucket: func(l Limit, history []past, now time.Duration, n int64) bool {
		sum := n
		if sum > l.Amount {
			return false
		}
		for i := len(history) - 1; i >= 0; i-- {
			sum += history[i].n
			// sum ≤ amount + amount·elapsed/period
			left := new(big.Int).Mul(big.NewInt(sum-l.Amount), big.NewInt(int64(l.Period)))
			right := new(big.Int).Mul(big.NewInt(l.Amount), big.NewInt(int64(now-history[i].at)))
			if left.Cmp(right) > 0 {
				return false
			}
		}
		return true
	},
}

// TestEnforcesExactly sends random arrivals against random sets of limits and
// compares every verdict with the definitions.
func TestEnforcesExactly(t *testing.T) {
	strategies := []Strategy{TokenBucket, SlidingWindow, FixedWindow}
	for seed := range uint64(60) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := rand.New(rand.NewPCG(seed, 1))
				var limits []Limit
				for range 1 + r.IntN(3) {
					l := RPM(1 + r.Int64N(20))
					if r.IntN(2) == 0 {
						l = TPM(500 + r.Int64N(5000))
					}
					l = l.Per(time.Duration(1 + r.Int64N(int64(time.Minute)))).By(strategies[r.IntN(3)])
					if r.IntN(3) == 0 {
						l = l.For("a")
					}
					limits = append(limits, l)
				}
				c, err := newConfig(limits, nil)
				if err != nil {
					t.Fatal(err)
				}
				e := newEnforcer(c)
				histories := make([][]past, len(limits))
				var advised time.Duration // of the last refusal
				for i := range 400 {
					switch r.IntN(4) {
					case 0: // at the same instant as the last
					case 1: // exactly when there should be room
						time.Sleep(advised)
					default:
						time.Sleep(time.Duration(r.ExpFloat64() * float64(2*time.Second)))
					}
					call := call{model: string(rune('a' + r.IntN(2))), input: r.Int64N(300), maxTokens: r.Int64N(300)}
					now := time.Since(e.start)
					want := true
					for k, l := range limits {
						want = want && (l.Model != "" && l.Model != call.model || fits[l.Strategy](l, histories[k], now, demand(l, call)))
					}
					got := e.admit(call)
					if (got.refusal == nil) != want {
						t.Fatalf("arrival %d at %v %+v: let in %v, want %v\nlimits %+v", i, now, call, !want, want, limits)
					}
					if want {
						advised = 0
						for k, l := range limits {
							if l.Model == "" || l.Model == call.model {
								histories[k] = append(histories[k], past{now, demand(l, call)})
							}
						}
						continue
					}
					// Retry-After: the limit named is broken until then, and holds then.
					if ref := got.refusal; !ref.never {
						advised = ref.wait
						k := indexOf(limits, ref.limit)
						if fits[ref.limit.Strategy](ref.limit, histories[k], now+ref.wait-1, ref.requested) ||
							!fits[ref.limit.Strategy](ref.limit, histories[k], now+ref.wait, ref.requested) {
							t.Fatalf("arrival %d at %v: told to wait %v, which is not the least, for %v", i, now, ref.wait, ref.limit)
						}
					}
				}
				checkStats(t, e, limits, histories)
			})
		})
	}
}

// checkStats compares the counts with what the brute force saw.
func checkStats(t *testing.T, e *enforcer, limits []Limit, histories [][]past) {
	t.Helper()
	s := e.stats()
	var refused int64
	for k, l := range s.Limits {
		refused += l.Refused
		var peak int64
		for i, first := range histories[k] {
			var sum int64
			for _, p := range histories[k][i:] {
				if p.at-first.at < limits[k].Period {
					sum += p.n
				}
			}
			peak = max(peak, sum)
		}
		if l.Peak != peak {
			t.Errorf("%v: peak %d, want %d", l.Limit, l.Peak, peak)
		}
		if l.Limit.Strategy == SlidingWindow && l.Peak > l.Limit.Amount || l.Peak > 2*l.Limit.Amount {
			t.Errorf("%v by %v: peak %d is more than the strategy allows", l.Limit, l.Limit.Strategy, l.Peak)
		}
	}
	if refused != s.Refused || s.Accepted+s.Refused != 400 {
		t.Errorf("accepted %d, refused %d, by limits %d; want 400 in all", s.Accepted, s.Refused, refused)
	}
}

func demand(l Limit, c call) int64 {
	if l.Kind == KindTokens {
		return c.input + c.maxTokens
	}
	return 1
}

func indexOf(limits []Limit, l Limit) int {
	for i := range limits {
		if limits[i] == l {
			return i
		}
	}
	return -1
}

// TestBucketIsExactForEver runs a bucket whose rate divides into nothing evenly
// for a year: what it let through is the whole tokens that it gained.
func TestBucketIsExactForEver(t *testing.T) {
	const amount, period = 7, 3 * time.Second
	b := newBucket(amount, period)
	b.take(0, amount)
	var now time.Duration
	var taken int64
	for range 200_000 {
		wait, ok := b.wait(now, 1)
		if !ok {
			t.Fatal("one token never fits")
		}
		now += wait
		b.take(now, 1)
		taken++
	}
	// The n-th token is there after n·period/amount, rounded up.
	want := (time.Duration(taken)*period + amount - 1) / amount
	if now != want {
		t.Errorf("%d tokens took %v, want %v", taken, now, want)
	}
}

func TestLargeAmountsDoNotOverflow(t *testing.T) {
	for _, s := range []Strategy{TokenBucket, SlidingWindow, FixedWindow} {
		const century = maxPeriod
		m := newMeter(TPD(maxAmount).Per(century).By(s))
		m.take(0, maxAmount)
		if wait, ok := m.wait(0, maxAmount); !ok || wait != century {
			t.Errorf("%s: room after %v, %v; want a century", s, wait, ok)
		}
		if left, reset := m.state(2 * century); left != maxAmount || reset != 0 {
			t.Errorf("%s: %d left, whole after %v; want everything, now", s, left, reset)
		}
	}
}

// TestARefusalChargesNothing sends what cannot pass one limit and looks for
// traces in the other.
func TestARefusalChargesNothing(t *testing.T) {
	for _, counted := range []bool{false, true} {
		t.Run(fmt.Sprint("refused counted ", counted), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				opts := []Option{InMemory(), WithStrategy(SlidingWindow)}
				if counted {
					opts = append(opts, WithRefusedCounted())
				}
				s := NewServer(t, OpenAI(RPM(10), TPM(1000)), opts...)
				for range 5 {
					if res, _ := post(t, s, chat(1, 2000)); res.StatusCode != 429 {
						t.Fatalf("status %v", res.Status)
					}
				}
				res, _ := post(t, s, chat(1, 99))
				want := "9"
				if counted {
					want = "4"
				}
				wantQuota(t, res.Header, "10", want, "1m0s", "1000", "900", "1m0s")
			})
		})
	}
}

// TestHammeringDelaysByAPeriod has a client that never stops, whose refused
// requests count: once it stops, one period later there is room again.
func TestHammeringDelaysByAPeriod(t *testing.T) {
	for _, s := range []Strategy{TokenBucket, SlidingWindow, FixedWindow} {
		t.Run(string(s), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c, err := newConfig([]Limit{RPM(60).By(s)}, []Option{WithRefusedCounted()})
				if err != nil {
					t.Fatal(err)
				}
				e := newEnforcer(c)
				for range 6000 {
					e.admit(call{})
				}
				time.Sleep(time.Minute)
				room := 0
				for e.admit(call{}).refusal == nil {
					room++
				}
				want := 60
				if s == TokenBucket { // it has paid its debt and holds nothing yet
					want = 0
				}
				if room != want {
					t.Errorf("room for %d after a minute, want %d", room, want)
				}
				time.Sleep(time.Minute + time.Second)
				if got := e.admit(call{}); got.refusal != nil {
					t.Errorf("still refused after a quiet period: %+v", got.refusal)
				}
			})
		})
	}
}

func TestActualUsageIsChargedAtTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := NewServer(t, OpenAI(TPM(1000).By(SlidingWindow)), InMemory(), WithActualUsage(),
			WithOutputTokens(980, 0), WithLatency(Latency{FirstToken: 10 * time.Second}))
		start := time.Now()
		res, _ := post(t, s, chat(30, 5000)) // above the limit, if max_tokens counted
		wantQuota(t, res.Header, "", "", "", "1000", "970", "1m0s")
		// 30 tokens from the start and 980 from 10 s on: 1 token fits after 60 s.
		time.Sleep(time.Until(start.Add(time.Minute - 1)))
		if res, _ := post(t, s, chat(1, 0)); res.StatusCode != 429 {
			t.Errorf("status %v while 1,010 of 1,000 tokens are used", res.Status)
		}
		time.Sleep(time.Nanosecond)
		if res, _ := post(t, s, chat(1, 0)); res.StatusCode != 200 {
			t.Errorf("status %v while 980 of 1,000 tokens are used", res.Status)
		}
		if st := s.Stats(); st.TokensCharged != 30+980+1+980 || st.Limits[0].Peak != 30+980 && st.Limits[0].Peak != 980+1+980 {
			t.Errorf("stats %+v", st)
		}
	})
}
