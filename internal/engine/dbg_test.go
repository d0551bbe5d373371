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
	dbgHook = func(w *world) {
		if os.Getenv("SEED") == "" || w.next < 1<<60 {
			return
		}
		fmt.Println("NEXT", w.next, w.input, w.now)
		for _, e := range w.current() {
			fmt.Println(e.Next(w.now), e.Limits(), e.ProbeAt(false), e.ProbeAt(true), e.HeldOut(), e.Announces())
			for i := range len(e.Limits()) - 1 {
				u, a, at := e.WindowUsage(w.now, i)
				fmt.Println(" ", u, a, at)
			}
		}
		fmt.Println(w.q.backfillAt, w.q.mean(false))
		os.Exit(1)
	}
}

var dbgHook = func(w *world) {}
