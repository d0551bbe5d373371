package engine

import (
	"fmt"
	"os"
	"strconv"
	"testing"
)

func TestDbg(t *testing.T) {
	if os.Getenv("SEED") == "" {
		t.Skip()
	}
	seed, _ := strconv.ParseUint(os.Getenv("SEED"), 10, 64)
	w := newWorld(t, seed)
	defer func() {
		s := w.trace.String()
		if len(s) > 5000 {
			s = s[len(s)-5000:]
		}
		fmt.Println(s)
		fmt.Printf("%+v\n", w.cfg)
	}()
	w.run()
	w.checkEnd()
}

func init() {
	n := 0
	dbgHook = func(w *world) {
		if os.Getenv("SEED") == "" {
			return
		}
		n++
		if w.next <= w.now && w.next != 0 && n > 0 {
			fmt.Println("INPUT", w.input, w.now, w.next, w.q.crowded, w.q.sweeps, w.dump())
			fmt.Println(w.q.expiry.First())
			fmt.Println(w.q.patient.First())
			fmt.Println(w.q.timeouts.First())
			fmt.Println(w.q.backoff.First())
			fmt.Println(w.q.hedges.due.First())
		}
	}
}

var dbgHook = func(w *world) {}
