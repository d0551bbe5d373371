package limitertest

import (
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/llmqueue/llmqueue"
)

// start is one request that started: surely not before the one and not after the other
// instant.
type start struct {
	before, after time.Time
	tokens        int64
	by            int
}

// worst finds the most requests and tokens that surely started within a period.
func worst(starts []start, period time.Duration) (requests, tokens int64) {
	byEnd := slices.Clone(starts)
	slices.SortFunc(byEnd, func(a, b start) int { return a.after.Compare(b.after) })
	for _, first := range starts {
		var n, sum int64
		i, _ := slices.BinarySearchFunc(byEnd, first.before, func(s start, at time.Time) int { return s.after.Compare(at) })
		for _, s := range byEnd[i:] {
			if s.after.Sub(first.before) >= period {
				break
			}
			if !s.before.Before(first.before) {
				n++
				sum += s.tokens
			}
		}
		requests, tokens = max(requests, n), max(tokens, sum)
	}
	return requests, tokens
}

// neverMore has four processes with two queues each take what they can until some
// hundred requests have started.
func neverMore(t *testing.T, make New) {
	const period = time.Second
	process := make(t, llmqueue.RPM(60).Per(period), llmqueue.TPM(3000).Per(period), llmqueue.Concurrent(1000))
	const wanted = 240
	stopped, stop := stopper()
	var (
		mu     sync.Mutex
		starts []start
		wait   sync.WaitGroup
	)
	for p := range 4 {
		l := process()
		for i := range 2 {
			q, random := join(t, l), rand.New(rand.NewPCG(uint64(p), uint64(i)))
			wait.Go(func() {
				for {
					n := 1 + random.Int64N(120)
					u := llmqueue.Usage{InputTokens: n / 2, OutputTokens: n - n/2}
					var r llmqueue.SharedReservation
					var before time.Time
					for r == nil {
						before = time.Now()
						var at time.Time
						if r, at = q.try(u); r != nil {
							break
						}
						if !q.pause(at, stopped) {
							q.withdraw()
							return
						}
					}
					used := u
					used.OutputTokens -= random.Int64N(used.OutputTokens + 1)
					mu.Lock()
					if starts = append(starts, start{before, time.Now(), used.Total(), p}); len(starts) == wanted {
						stop()
					}
					mu.Unlock()
					end(r, used)
				}
			})
		}
	}
	wait.Wait()
	requests, sum := worst(starts, period)
	if requests > 60 || sum > 3000 {
		t.Fatalf("within one second %d requests and %d tokens started, under limits of 60 and 3000", requests, sum)
	}
	if len(starts) < wanted {
		t.Fatalf("only %d requests started within %v under a limit of 60 a second", len(starts), 2*patience)
	}
}

// pause waits until it is woken or told to come, false when it is over.
func (q *queue) pause(at time.Time, over <-chan struct{}) bool {
	var due <-chan time.Time
	if !at.IsZero() {
		due = time.After(time.Until(at))
	}
	select {
	case <-q.woken:
	case <-due:
	case <-over:
		return false
	}
	return true
}

// stopper gives a channel that stop closes, or else a time by which all is over.
func stopper() (stopped <-chan struct{}, stop func()) {
	c := make(chan struct{})
	stop = sync.OnceFunc(func() { close(c) })
	time.AfterFunc(2*patience, stop)
	return c, stop
}

func neverMoreSlots(t *testing.T, make New) {
	process := make(t, llmqueue.Concurrent(5))
	const wanted = 200
	stopped, stop := stopper()
	var (
		mu                   sync.Mutex
		running, most, total int
		wait                 sync.WaitGroup
	)
	for range 4 {
		q := join(t, process())
		wait.Go(func() {
			var calls sync.WaitGroup
			defer calls.Wait()
			for {
				r := q.take(tokens(1), stopped)
				if r == nil {
					return
				}
				mu.Lock()
				running++
				if most, total = max(most, running), total+1; total == wanted {
					stop()
				}
				mu.Unlock()
				calls.Go(func() {
					<-time.After(5 * time.Millisecond)
					mu.Lock()
					running--
					mu.Unlock()
					end(r, tokens(1))
				})
			}
		})
	}
	wait.Wait()
	if most > 5 {
		t.Fatalf("%d requests ran at once under a limit of 5", most)
	}
	if total < wanted {
		t.Fatalf("only %d requests of 5 ms ran within %v, five at a time", total, 2*patience)
	}
}

// big waits for the whole limit while others take small parts.
func big(t *testing.T, make New) {
	process := make(t, llmqueue.TPM(100).Per(time.Second))
	over := newOver(t)
	for range 3 {
		q := join(t, process())
		go func() {
			for {
				r := q.take(tokens(5), over)
				if r == nil {
					return
				}
				end(r, tokens(5))
			}
		}()
	}
	q := join(t, process())
	end(q.must(tokens(100), "a request of the whole limit never starts while small ones do"), tokens(100))
	end(q.must(tokens(100), "a request of the whole limit never starts a second time"), tokens(100))
}

// fair has processes that all want everything.
func fair(t *testing.T, make New) {
	const processes, period = 4, time.Second
	process := make(t, llmqueue.RPM(40).Per(period))
	stopped, stop := stopper()
	counts := [processes]int{}
	var wait sync.WaitGroup
	var all atomic.Int64
	for p := range processes {
		q := join(t, process())
		wait.Go(func() {
			for {
				r := q.take(tokens(1), stopped)
				if r == nil {
					return
				}
				counts[p]++
				if all.Add(1) == 240 {
					stop()
				}
				end(r, tokens(1))
			}
		})
	}
	wait.Wait()
	sum := 0
	for _, n := range counts {
		sum += n
	}
	for p, n := range counts {
		if n < max(sum, 240)/processes/4 {
			t.Errorf("process %d started %d of %d requests while %d processes wanted all: %v", p, n, sum, processes, counts)
		}
	}
}
