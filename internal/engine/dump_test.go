package engine

import "fmt"

func (w *world) dump() (s string) {
	for _, e := range w.current() {
		s += fmt.Sprintf("\n %+v breaker %+v queued %v", e.members, e.breaker, e.Queued())
		for _, m := range e.members {
			s += fmt.Sprintf(" set %+v waiting %v room %d", m.set.limit, m.set.waiting, m.set.room(w.now))
		}
		s += fmt.Sprintf("\n E%d bit %d run %d slotsnow %d paused %d open %v held %v probedue %v/%v may %v next %d", e.ID, e.Bit, e.Running(), e.SlotsNow(), e.PausedUntil()-w.now, e.Open(), e.HeldOut(), e.ProbeDue(w.now, false), e.ProbeDue(w.now, true), e.MayStart(w.now), e.Next(w.now)-w.now)
	}
	for _, g := range w.q.aside {
		s += fmt.Sprintf("\n group %+v:", g.reach)
		for h := range g.line.All() {
			s += fmt.Sprint(" ", h)
		}
	}
	for _, h := range w.inOrder() {
		r := w.q.records.at(h)
		a := w.q.attemptOf(r)
		av, f := uint64(0), uint64(0)
		if a != nil {
			av, f = a.avoid, a.faulty
		}
		ids := ""
		of := w.q.reach(r)
		use, probes := w.mayUse(r)
		for _, e := range append(use, probes...) {
			ids += fmt.Sprint(" ", e.ID)
		}
		s += fmt.Sprintf("\n R%d prio %d %v sized %v avoid %d faulty %d places %d may use%s", h, r.priority, r.estimate, r.sized(), av, f, w.q.places(&of), ids)
	}
	return s
}
