package main

import (
	"container/heap"
	"time"
)

// A call is what one answered question really took.
type call struct {
	tokens  int64
	latency time.Duration
}

// minimum returns the shortest wall time in which calls can run, in this order,
// under the contract alone: at most rpm starts and tpm tokens in any period, at
// most concurrency at once. It is computed offline, from the true costs and
// latencies, and knows neither margin nor network: nothing that keeps the limits
// and the order can be faster.
func minimum(calls []call, rpm, tpm int64, concurrency int, period time.Duration) time.Duration {
	var (
		starts  = make([]time.Duration, len(calls))
		oldest  int   // the first call that the window of tokens still holds
		held    int64 // the tokens of calls[oldest:i]
		running ends
		now     time.Duration
		end     time.Duration
	)
	for i, c := range calls {
		if j := int64(i) - rpm; j >= 0 {
			now = max(now, starts[j]+period)
		}
		// Let go of the oldest charges until this one fits. A charge made at t
		// counts until just before t+period.
		for oldest < i && (held+c.tokens > tpm || starts[oldest]+period <= now) {
			now = max(now, starts[oldest]+period)
			held -= calls[oldest].tokens
			oldest++
		}
		if len(running) == concurrency {
			now = max(now, heap.Pop(&running).(time.Duration))
		}
		starts[i] = now
		held += c.tokens
		heap.Push(&running, now+c.latency)
		end = max(end, now+c.latency)
	}
	return end
}

// ends is a heap of the instants at which running calls end.
type ends []time.Duration

func (e ends) Len() int           { return len(e) }
func (e ends) Less(i, j int) bool { return e[i] < e[j] }
func (e ends) Swap(i, j int)      { e[i], e[j] = e[j], e[i] }
func (e *ends) Push(x any)        { *e = append(*e, x.(time.Duration)) }
func (e *ends) Pop() any {
	last := len(*e) - 1
	x := (*e)[last]
	*e = (*e)[:last]
	return x
}
