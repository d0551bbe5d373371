package llmriver

import "sync"

// group hands items that come from many goroutines to one function, many at once: what
// comes while it writes goes into its next transaction.
type group[E any] struct {
	write func([]E)
	most  int

	// mu guards the rest; it is not held during write.
	mu      sync.Mutex
	pending []E
	busy    bool
	idle    sync.WaitGroup
}

func (g *group[E]) add(e E) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.pending = append(g.pending, e)
	if !g.busy {
		g.busy = true
		g.idle.Go(g.loop)
	}
}

func (g *group[E]) loop() {
	for {
		g.mu.Lock()
		n := min(len(g.pending), g.most)
		batch := g.pending[:n:n]
		if g.pending = g.pending[n:]; n == 0 {
			g.busy, g.pending = false, nil
			g.mu.Unlock()
			return
		}
		g.mu.Unlock()
		g.write(batch)
	}
}
