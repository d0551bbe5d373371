package llmredis

import (
	"context"
	"errors"
	"net"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"
)

// checkup is how often a subscription that hears nothing is checked.
const checkup = 5 * time.Second

// listen waits for messages: that this process may come, and that others wait.
func (s *set) listen(ctx context.Context) {
	for ctx.Err() == nil {
		s.subscribe(ctx)
		// The connection ended. If Redis went with it, that has to be found out: this
		// process may know of charges that a new Redis does not.
		s.mu.Lock()
		s.look = true
		s.mu.Unlock()
		s.kick()
		select {
		case <-ctx.Done():
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// subscribe hears one connection until it ends.
func (s *set) subscribe(ctx context.Context) {
	sub := s.limiter.client.Subscribe(ctx, s.channel(), s.mailbox)
	stop := context.AfterFunc(ctx, func() { _ = sub.Close() })
	defer func() {
		if stop() {
			_ = sub.Close()
		}
	}()
	for checked := false; ; {
		got, err := sub.ReceiveTimeout(ctx, checkup)
		var late net.Error
		switch {
		case err != nil && ctx.Err() == nil && errors.As(err, &late) && late.Timeout() && !checked:
			if checked = true; sub.Ping(ctx) != nil {
				return
			}
			continue
		case err != nil:
			return
		}
		checked = false
		switch m := got.(type) {
		case *redis.Subscription:
			// What was said before is lost.
			s.mu.Lock()
			s.ask(time.Now())
			s.mu.Unlock()
		case *redis.Message:
			s.hear(m)
		}
	}
}

func (s *set) hear(m *redis.Message) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	if m.Channel != s.mailbox {
		// Others wait: what is of no use here goes back.
		s.others = max(s.others, 1)
		if s.idle > 0 || len(s.leases) > 0 {
			s.spare(now)
			if len(s.returned) > 0 || s.slots > 0 {
				s.tell(now)
			}
		}
		return
	}
	ms, err := strconv.ParseInt(m.Payload, 10, 64)
	if err != nil || len(s.waiting) == 0 {
		return
	}
	at := s.baseAt.Add(time.Duration(ms-s.base+1) * time.Millisecond)
	if at.Before(now) {
		at = now
	}
	s.askAt = at
	s.kick()
}
