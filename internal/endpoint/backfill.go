package endpoint

import "github.com/llmqueue/llmqueue/internal/window"

var (
	noSlack    window.Slack
	oneRequest = window.Charge{Requests: 1}
)

// FindSlack notes what may start here without putting off the head of the line, which
// reserves u. Nothing may while the endpoint has other reasons to wait.
func (e *Endpoint) FindSlack(now int64, u Usage) bool {
	e.slack = noSlack
	if len(e.shared) == 0 && e.MayStart(now) && e.running+1 < e.SlotsNow() && (e.breaker == nil || e.breaker.IsClosed()) {
		e.slack = e.windows.SlackAt(now, u.charge())
	}
	return e.slack.Holds(oneRequest)
}

// Backfill is Admit for a request that must not put the head of the line off. at is when
// it may fit, 0 when that is not known.
func (e *Endpoint) Backfill(now int64, u Usage, l *Lease) (ok bool, at int64) {
	c := u.charge()
	if !e.slack.Holds(c) {
		return false, 0
	}
	charge, ok := e.windows.ReserveAt(now, c)
	if !ok {
		if at, _ = e.windows.NextAt(now, c); at == Never {
			at = 0
		}
		return false, at
	}
	if e.breaker != nil && !e.breaker.TryAcquirePermit() {
		e.windows.UndoAt(now, &charge)
		return false, 0
	}
	l.charge, l.shared = charge, nil
	e.start(now, u, l)
	return true, 0
}
