package llmqueue

import (
	"errors"
	"fmt"
	"slices"
	"time"
)

// This file lets identical requests share one call. A call is a record of its own that
// goes through line, limits and retries like a request; the requests that share it only
// follow it. So no request is special, and any of them may leave.

// WithCoalescing lets requests with the same key share one call while it waits or runs.
// Each has its own id, context, MaxWait and response; the call goes on until it ends or
// the last of them has left, and is as urgent as the most urgent of them. It has the
// params, tenant, estimate and context values of the first, and no deadline of any of
// them. A failure is everybody's failure. The usage stands in one of the responses, so
// that a sum over responses counts it once; it is zero in the others. The result is the
// same value for all: nobody may change what it points to.
//
// An empty key shares nothing. key is called at Submit, on the caller's goroutine, and
// must be safe for concurrent use. A P other than the queue's is
// ErrInvalidConfiguration.
func WithCoalescing[P any](key func(Request[P]) string) Option {
	return Option{func(s *settings) { s.coalesce = key }}
}

// coalescerFor finds the option's function.
func coalescerFor[P any](option any) (func(Request[P]) string, error) {
	if option == nil {
		return nil, nil
	}
	f, ok := option.(func(Request[P]) string)
	if !ok || f == nil {
		return nil, invalid("WithCoalescing got %T, this queue needs %T", option, f)
	}
	return f, nil
}

// call is what several requests share. Guarded by the queue's lock.
type call[P, T any] struct {
	key       string
	rec       *record[P, T]
	followers []ref // those that left included
	live      int   // those that did not
}

// calls finds calls by what is known of them.
type calls[P, T any] struct {
	byKey      map[string]*call[P, T]
	byRecord   map[ref]*call[P, T]
	byFollower map[ref]*call[P, T]
}

// follow lets rec share the call of that key. A new call is returned, which has to be
// started or put in line; nil when there was one.
func (q *Queue[P, T]) follow(now time.Time, rec *record[P, T], key string) (fresh *record[P, T]) {
	if q.calls.byKey == nil {
		q.calls = calls[P, T]{map[string]*call[P, T]{}, map[ref]*call[P, T]{}, map[ref]*call[P, T]{}}
	}
	c := q.calls.byKey[key]
	if c == nil {
		fresh = q.records.add()
		fresh.id, fresh.params, fresh.tenant, fresh.metadata = rec.id, rec.params, rec.tenant, rec.metadata
		fresh.estimate, fresh.sized, fresh.priority = rec.estimate, rec.sized, rec.priority
		fresh.ctx, fresh.created = rec.ctx, rec.created
		fresh.state, fresh.noWait, fresh.call, fresh.awaited = stateInLine, true, true, !rec.noWait
		c = &call[P, T]{key: key, rec: fresh}
		q.calls.byKey[key], q.calls.byRecord[fresh.ref()] = c, c
	} else {
		q.count.coalesced++
	}
	var none P
	rec.state, rec.params = stateFollowing, none
	c.followers = append(c.followers, rec.ref())
	c.live++
	q.calls.byFollower[rec.ref()] = c
	if work := c.rec; fresh == nil && rec.priority > work.priority {
		if work.state == stateInLine {
			q.leaveLine(work)
			work.priority = rec.priority
			if work.account == nil {
				q.joinLine(work)
			} else {
				q.returnToLine(work)
			}
			q.pump(now, nil)
		} else {
			work.priority = rec.priority
		}
	}
	return fresh
}

// unfollow takes rec out of its call, which ends when nobody is left.
func (q *Queue[P, T]) unfollow(now time.Time, rec *record[P, T]) {
	c := q.calls.byFollower[rec.ref()]
	delete(q.calls.byFollower, rec.ref())
	c.live--
	rec.state = c.rec.state // where it was, for its last event
	if rec.maxWait > 0 && c.rec.account == nil {
		q.deadlines.drop(q.doesNotWaitFirst)
	}
	if c.live == 0 {
		q.end(now, c.rec, stateCanceled, errors.New("nobody waits for it"))
		return
	}
	if len(c.followers) > 2*c.live+16 {
		c.followers = slices.DeleteFunc(c.followers, func(r ref) bool { return q.calls.byFollower[r] != c })
	}
}

// sharing are the requests that share the call of rec.
func (q *Queue[P, T]) sharing(rec *record[P, T]) []*record[P, T] {
	c := q.calls.byRecord[rec.ref()]
	sharing := make([]*record[P, T], 0, c.live)
	for _, r := range c.followers {
		if q.calls.byFollower[r] == c {
			sharing = append(sharing, q.records.get(r))
		}
	}
	return sharing
}

// firstSharing is the first of those.
func (q *Queue[P, T]) firstSharing(rec *record[P, T]) *record[P, T] {
	c := q.calls.byRecord[rec.ref()]
	for _, r := range c.followers {
		if q.calls.byFollower[r] == c {
			return q.records.get(r)
		}
	}
	return rec
}

// finishCall ends all who share the call of rec. The first of them takes over its
// account, with what it used.
func (q *Queue[P, T]) finishCall(now time.Time, rec *record[P, T], state recordState, result *T, err error) {
	c, sharing, acc := q.calls.byRecord[rec.ref()], q.sharing(rec), q.accountOf(rec)
	delete(q.calls.byKey, c.key)
	delete(q.calls.byRecord, rec.ref())
	was := rec.state
	rec.state = state
	told := *acc // before the first can be forgotten
	for i, follower := range sharing {
		delete(q.calls.byFollower, follower.ref())
		if i == 0 {
			follower.account, rec.account = acc, nil
		} else {
			own := q.accountOf(follower)
			own.number, own.endpoint, own.started, own.waits, own.follows = told.number, told.endpoint, told.started, told.waits, true
			own.unserved = told.unserved
			if told.away != nil {
				own.away = &away{modelID: told.away.modelID, attempts: told.away.attempts, started: told.away.started}
			}
		}
		follower.state = was
		q.finish(now, follower, state, result, errorOf(err, follower.id))
	}
	q.records.forget(rec)
}

// errorOf is err as the request of that id gets it.
func errorOf(err error, requestID string) error {
	if pe, ok := err.(*ProcessingError); ok {
		own := *pe
		own.RequestID = requestID
		return &own
	}
	return err
}

// alike is how many more requests wait, run or are at a fallback than there are calls.
func (q *Queue[P, T]) alike() (pending, processing, forwarded int) {
	for _, c := range q.calls.byRecord {
		switch c.rec.state {
		case stateRunning:
			processing += c.live - 1
		case stateForwarded:
			forwarded += c.live - 1
		default:
			pending += c.live - 1
		}
	}
	return pending, processing, forwarded
}

// errShared is UpdateUsage's for a request that has no usage of its own.
func (q *Queue[P, T]) errShared(requestID string) error {
	return fmt.Errorf("%w: request %q shared another one's call, which has the usage", ErrRequestNotFound, requestID)
}
