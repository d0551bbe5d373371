package llmqueue

import (
	"context"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/llmqueue/llmqueue/internal/model"
)

// play plays a story to a queue.
func play(t *testing.T, s *model.Story) (out *model.Seen, info QueueInfo) {
	out = &model.Seen{RetryAt: map[string]time.Duration{}, Refused: map[string]bool{}}
	begin := time.Now()
	left := make([]context.CancelFunc, len(s.Requests))
	tries := make([]int, len(s.Requests))
	process := func(ctx context.Context, r Request[int]) (int, error) {
		// The queue runs no two attempts of a request at a time.
		n := tries[r.Params]
		tries[r.Params]++
		f := s.Requests[r.Params].Fates[n]
		if f.Returns {
			select {
			case <-time.After(f.Lasts):
			case <-ctx.Done():
			}
		} else {
			time.Sleep(f.Lasts)
		}
		if f.Reports {
			ReportUsage(ctx, Usage{InputTokens: 1 << 30})
			ReportUsage(ctx, fromEngineUsage(f.Used)) // the last one counts
		}
		return r.Params, outcomeOf(f)
	}
	q, err := NewQueue("m", process,
		WithLimits(fromEngineLimits(s.Limits)...), WithMargin(s.Margin), WithRetry(RetryPolicy{MaxAttempts: s.Attempts, BaseDelay: 2 * time.Second, Budget: -1}), WithoutDeadlineCheck(),
		WithObserver(func(e Event) {
			h := model.Happened{At: e.Time.Sub(begin), ID: e.RequestID, What: model.What(e.Type), Attempt: e.Attempt}
			switch e.Type {
			case EventStarted:
				out.Starts = append(out.Starts, h)
			case EventCompleted, EventFailed, EventCanceled:
				out.Ends = append(out.Ends, h)
			case EventRetried:
				out.RetryAt[model.AttemptKey(e.RequestID, e.Attempt)] = e.Until.Sub(begin)
			}
		}))
	require.NoError(t, err)
	for _, st := range s.Steps {
		time.Sleep(st.At - time.Since(begin))
		id := model.ID(st.I)
		switch st.What {
		case "submit":
			d := s.Requests[st.I]
			req := Request[int]{
				ID: id, Params: st.I, Priority: d.Priority, Tenant: d.Tenant, Estimate: fromEngineUsage(d.Estimate), MaxWait: d.MaxWait, NoWait: !d.Waited,
			}
			ctx, cancel := context.WithCancel(context.Background())
			left[st.I] = cancel
			submit := func() {
				resp, err := q.Submit(ctx, req)
				if resp.RequestID == "" {
					assert.ErrorIs(t, err, ErrRequestTooLarge)
					out.Refused[id] = true
				}
			}
			if d.Waited {
				go submit()
			} else {
				submit()
			}
		case "cancel":
			_ = q.Cancel(id)
		case "leave":
			left[st.I]()
		case "update":
			_ = q.UpdateUsage(id, fromEngineUsage(st.Usage))
		case "limits":
			require.NoError(t, q.SetLimits(fromEngineLimits(st.Limits)...))
		case "pause":
			q.Pause()
		case "resume":
			q.Resume()
		case "check":
			i := addsUp(t, q)
			l := model.Looked{At: st.At, Pending: i.Pending, Processing: i.Processing, Abandoned: i.Abandoned}
			for _, x := range i.Limits {
				l.Used = append(l.Used, x.Used)
			}
			out.Checks = append(out.Checks, l)
		}
		synctest.Wait()
	}
	require.NoError(t, q.Shutdown(context.Background()))
	synctest.Wait()
	for _, cancel := range left {
		if cancel != nil {
			cancel()
		}
	}
	info = addsUp(t, q)
	require.Zero(t, info.Dropped)
	return out, info
}

func outcomeOf(f model.Fate) error {
	switch f.Ends {
	case "fail":
		return errBoom
	case "panic":
		panic(Retryable(errBoom)) // a mark means nothing in a panic
	case "goexit":
		runtime.Goexit()
	case "retry":
		return Retryable(errBoom)
	case "limited":
		return RateLimited(errBoom, f.After)
	}
	return nil
}
