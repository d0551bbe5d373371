package llmtest

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"
)

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
		m := newMeter(TPD(maxAmount).Per(century).By(s), time.Now())
		m.take(0, maxAmount)
		if wait, ok := m.wait(0, maxAmount); !ok || wait != century {
			t.Errorf("%s: room after %v, %v; want a century", s, wait, ok)
		}
		if _, left, reset := m.state(2 * century); left != maxAmount || reset != 0 {
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
				opts := []Option{InMemory(), WithStrategy(SlidingWindow)} // OpenAI's refusals count
				if !counted {
					opts = append(opts, WithRefusedFree())
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
	for _, s := range []Strategy{TokenBucket, SlidingWindow, FixedWindow, Quantized} {
		t.Run(string(s), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c, err := newConfig(OpenAI(RPM(60).By(s)), nil)
				if err != nil {
					t.Fatal(err)
				}
				e := newEnforcer(&c)
				for range 6000 {
					e.admit(&call{})
				}
				time.Sleep(time.Minute)
				room := 0
				for e.admit(&call{}).refusal == nil {
					room++
				}
				want := 60
				if s == TokenBucket || s == Quantized { // it has paid its debt and holds nothing yet
					want = 0
				}
				if room != want {
					t.Errorf("room for %d after a minute, want %d", room, want)
				}
				time.Sleep(time.Minute + time.Second)
				if got := e.admit(&call{}); got.refusal != nil {
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
