package pacing

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/llmqueue/llmqueue/bench/internal/contender"
)

func TestMostInAnyPeriod(t *testing.T) {
	const period = 10
	for _, tt := range []struct {
		why    string
		starts []time.Duration
		want   int
	}{
		{"nothing started", nil, 0},
		{"one", []time.Duration{3}, 1},
		{"all at once", []time.Duration{0, 0, 0}, 3},
		{"exactly a period apart is not in one", []time.Duration{0, 10, 20}, 1},
		{"a little less is", []time.Duration{0, 9, 18}, 2},
		{"across two periods of a clock", []time.Duration{8, 9, 10, 11, 19}, 4},
		{"the most is in the middle", []time.Duration{0, 20, 21, 22, 40, 41}, 3},
	} {
		if got := most(tt.starts, period); got != tt.want {
			t.Errorf("%s: most(%v) = %d, want %d", tt.why, tt.starts, got, tt.want)
		}
	}
}

func TestQuota(t *testing.T) {
	for late, want := range map[time.Duration]int{
		0:                       30, // at 0 s, 1 s and 2 s
		500 * time.Millisecond:  30, // at 0.5 s, 1.5 s and 2.5 s
		time.Second:             20,
		2900 * time.Millisecond: 10,
	} {
		l := Load{Limit: 10, Period: time.Second, Periods: 3, Late: late}
		if got := l.quota(); got != want {
			t.Errorf("work that comes at %v can use %d, want %d", late, got, want)
		}
	}
}

// script is a limiter that starts jobs at given instants, whatever the limit.
type script chan time.Time

func scripted(at ...time.Duration) contender.Limiter {
	return contender.Limiter{New: func(int, time.Duration) (contender.Gate, error) {
		s := make(script, len(at))
		for _, d := range at {
			s <- time.Now().Add(d)
		}
		close(s)
		return s, nil
	}}
}

func (s script) Do(ctx context.Context, job func()) error {
	at, ok := <-s
	if !ok {
		<-ctx.Done()
		return ctx.Err()
	}
	select {
	case <-time.After(time.Until(at)):
		job()
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (script) Close() error { return nil }

func TestMeasureByHand(t *testing.T) {
	const s = time.Second
	for _, tt := range []struct {
		why    string
		starts []time.Duration
		late   time.Duration
		want   Result
	}{
		{"never more than 2 in a period, all used", []time.Duration{0, 0, s, s, 2 * s, 2 * s}, 0, Result{1, 1}},
		{"what starts after the end does not count", []time.Duration{0, s, 2 * s, 3 * s, 4 * s}, 0, Result{0.5, 0.5}},
		{"3 of 2 within a period", []time.Duration{0, s / 2, s * 3 / 4}, 0, Result{1.5, 0.5}},
		{"late work", []time.Duration{s / 2, s / 2, 3 * s / 2, 3 * s / 2}, s / 2, Result{1, 4.0 / 6}},
	} {
		synctest.Test(t, func(t *testing.T) {
			got, err := Measure(scripted(tt.starts...), Load{Limit: 2, Period: s, Periods: 3, Late: tt.late})
			if err != nil || got != tt.want {
				t.Errorf("%s: got %+v, %v, want %+v", tt.why, got, err, tt.want)
			}
		})
	}
}

// In virtual time no scheduler is late, so that what is left is the limiters' own doing.
func TestLimiters(t *testing.T) {
	type verdict struct {
		most, used         float64 // flood
		mostLate, usedLate float64 // flood that comes half a period late
	}
	want := map[string]verdict{
		"x/time/rate, burst N": {2, 4.0 / 3, 2, 3.5 / 3},
		"x/time/rate, burst 1": {1, 1, 1, 2.5 / 3},
		"failsafe-go, smooth":  {1, 1, 1, 2.5 / 3},
		"failsafe-go, bursty":  {1, 1, 2, 1},
		"llmqueue":             {1, 1, 1, 1},
	}
	if len(contender.Limiters) != len(want) {
		t.Errorf("there are %d limiters, %d are expected", len(contender.Limiters), len(want))
	}
	for _, limiter := range contender.Limiters {
		for _, limit := range []int{50, 200} {
			t.Run(fmt.Sprintf("%s/%d", limiter.Name, limit), func(t *testing.T) {
				// The token bucket counts in floating point and may be one short or over at the edge of a window.
				near := 1.5 / float64(limit)
				w := want[limiter.Name]
				check := func(late time.Duration, most, used float64) {
					synctest.Test(t, func(t *testing.T) {
						got, err := Measure(limiter, Load{Limit: limit, Period: time.Second, Periods: 3, Late: late})
						if err != nil {
							t.Fatal(err)
						}
						if got.Most < most-near || got.Most > most+near || got.Used < used-near || got.Used > used+near {
							t.Errorf("work that comes at %v: most in a period %.3f, used %.3f; want about %.3f and %.3f", late, got.Most, got.Used, most, used)
						}
						if limiter.Name == "llmqueue" && got != (Result{1, 1}) {
							t.Errorf("work that comes at %v: %+v, want exactly the limit", late, got)
						}
					})
				}
				check(0, w.most, w.used)
				check(time.Second/2, w.mostLate, w.usedLate)
			})
		}
	}
}

func TestFaultIsNotTakenForPacing(t *testing.T) {
	if _, err := MeasureAll([]contender.Limiter{contender.Limiters[len(contender.Limiters)-1]}, Load{Limit: 0, Period: time.Millisecond, Periods: 1}); err == nil {
		t.Error("a limiter that cannot be made was measured")
	}
}
