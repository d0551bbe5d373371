package llmqueue

import (
	"context"
	"errors"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// errCause is why callers give up in these tests.
var errCause = errors.New("the user closed the page")

// outcome is one row of the table of what can happen to a request.
type outcome struct {
	name    string
	opts    []Option
	process Processor[int, int]
	req     Request[int]
	busy    int // another request takes the only slot for so many seconds first
	act     func(t *testing.T, q *Queue[int, int], id string, giveUp func())
	caller  bool // act ends the caller's context: fire and forget does not notice

	status   Status
	is       []error
	ran      bool // the error is a ProcessingError
	panicked bool // and a PanicError
	attempts int
	after    time.Duration // from Submit to the end
	slot     time.Duration // from the end until the processor returns
}

var outcomes = []outcome{
	{
		name: "result", process: sleeper, req: Request[int]{Params: 3},
		status: StatusCompleted, attempts: 1, after: 3 * time.Second,
	},
	{
		name:    "processor error",
		process: func(context.Context, Request[int]) (int, error) { return 7, errBoom },
		status:  StatusFailed, is: []error{errBoom}, ran: true, attempts: 1,
	},
	{
		name:    "processor error after retries",
		process: func(context.Context, Request[int]) (int, error) { return 7, Retryable(errBoom) },
		opts:    []Option{WithRetry(RetryPolicy{MaxAttempts: 3, BaseDelay: time.Nanosecond, MaxDelay: time.Nanosecond})},
		status:  StatusFailed, is: []error{errBoom}, ran: true, attempts: 3, after: -1,
	},
	{
		name:    "panic with a text",
		process: func(context.Context, Request[int]) (int, error) { panic("boom") },
		status:  StatusFailed, ran: true, panicked: true, attempts: 1,
	},
	{
		name:    "panic with an error",
		process: func(context.Context, Request[int]) (int, error) { panic(errBoom) },
		status:  StatusFailed, is: []error{errBoom}, ran: true, panicked: true, attempts: 1,
	},
	{
		name:    "panic with a marked error is not tried again",
		process: func(context.Context, Request[int]) (int, error) { panic(Retryable(errBoom)) },
		status:  StatusFailed, is: []error{errBoom}, ran: true, panicked: true, attempts: 1,
	},
	{
		name: "panic with nil",
		process: func(context.Context, Request[int]) (int, error) {
			panic(nil) //nolint:govet // the runtime turns it into an error
		},
		status: StatusFailed, ran: true, panicked: true, attempts: 1,
	},
	{
		name: "Goexit",
		process: func(context.Context, Request[int]) (int, error) {
			runtime.Goexit()
			return 7, nil
		},
		status: StatusFailed, ran: true, panicked: true, attempts: 1,
	},
	{
		name: "timeout of the only attempt", process: sleeper, req: Request[int]{Params: 10},
		opts:   []Option{WithTimeout(2 * time.Second), WithRetry(RetryPolicy{MaxAttempts: 1})},
		status: StatusFailed, is: []error{context.DeadlineExceeded}, ran: true, attempts: 1, after: 2 * time.Second,
	},
	{
		name: "timeout of a processor that ignores its context", process: deaf, req: Request[int]{Params: 10},
		opts: []Option{WithTimeout(2 * time.Second), WithRetry(RetryPolicy{MaxAttempts: 1})}, slot: 8 * time.Second,
		status: StatusFailed, is: []error{context.DeadlineExceeded}, ran: true, attempts: 1, after: 2 * time.Second,
	},
	{
		name: "timeout of every attempt", process: sleeper, req: Request[int]{Params: 10},
		opts:   []Option{WithTimeout(2 * time.Second), WithRetry(RetryPolicy{MaxAttempts: 3, BaseDelay: time.Nanosecond, MaxDelay: time.Nanosecond})},
		status: StatusFailed, is: []error{context.DeadlineExceeded}, ran: true, attempts: 3, after: -1,
	},
	{
		name: "caller gives up in line", process: sleeper, req: Request[int]{Params: 1}, busy: 60, caller: true,
		act:    func(_ *testing.T, _ *Queue[int, int], _ string, giveUp func()) { giveUp() },
		status: StatusCanceled, is: []error{ErrCanceled, errCause}, after: 5 * time.Second,
	},
	{
		name: "caller gives up while it runs", process: sleeper, req: Request[int]{Params: 60}, caller: true,
		act:    func(_ *testing.T, _ *Queue[int, int], _ string, giveUp func()) { giveUp() },
		status: StatusCanceled, is: []error{ErrCanceled, errCause}, attempts: 1, after: 5 * time.Second,
	},
	{
		name: "caller gives up while a processor that ignores its context runs", process: deaf,
		req: Request[int]{Params: 60}, caller: true, slot: 55 * time.Second,
		act:    func(_ *testing.T, _ *Queue[int, int], _ string, giveUp func()) { giveUp() },
		status: StatusCanceled, is: []error{ErrCanceled, errCause}, attempts: 1, after: 5 * time.Second,
	},
	{
		name: "Cancel in line", process: sleeper, req: Request[int]{Params: 1}, busy: 60,
		act:    func(t *testing.T, q *Queue[int, int], id string, _ func()) { require.NoError(t, q.Cancel(id)) },
		status: StatusCanceled, is: []error{ErrCanceled}, after: 5 * time.Second,
	},
	{
		name: "Cancel while it runs", process: sleeper, req: Request[int]{Params: 60},
		act:    func(t *testing.T, q *Queue[int, int], id string, _ func()) { require.NoError(t, q.Cancel(id)) },
		status: StatusCanceled, is: []error{ErrCanceled}, attempts: 1, after: 5 * time.Second,
	},
	{
		name: "Cancel while a processor that ignores its context runs", process: deaf, req: Request[int]{Params: 60},
		slot:   55 * time.Second,
		act:    func(t *testing.T, q *Queue[int, int], id string, _ func()) { require.NoError(t, q.Cancel(id)) },
		status: StatusCanceled, is: []error{ErrCanceled}, attempts: 1, after: 5 * time.Second,
	},
	{
		name:    "Cancel between two attempts",
		process: func(context.Context, Request[int]) (int, error) { return 0, RateLimited(errBoom, time.Hour) },
		act:     func(t *testing.T, q *Queue[int, int], id string, _ func()) { require.NoError(t, q.Cancel(id)) },
		status:  StatusCanceled, is: []error{ErrCanceled}, attempts: 1, after: 5 * time.Second,
	},
	{
		name: "MaxWait", process: sleeper, req: Request[int]{Params: 1, MaxWait: 7 * time.Second}, busy: 60,
		status: StatusFailed, is: []error{ErrQueueTimeout}, after: 7 * time.Second,
	},
	{
		name: "MaxWait of a paused queue", process: sleeper, req: Request[int]{Params: 1, MaxWait: 7 * time.Second}, busy: 60,
		act:    func(_ *testing.T, q *Queue[int, int], _ string, _ func()) { q.Pause() },
		status: StatusFailed, is: []error{ErrQueueTimeout}, after: 7 * time.Second,
	},
	{
		name: "MaxWait bounds the first start only", process: sleeper, req: Request[int]{Params: 20, MaxWait: 7 * time.Second},
		status: StatusCompleted, attempts: 1, after: 20 * time.Second,
	},
	{
		name: "Shutdown of a paused queue", process: sleeper, req: Request[int]{Params: 1}, busy: 6,
		act: func(t *testing.T, q *Queue[int, int], _ string, _ func()) {
			q.Pause()
			require.NoError(t, q.Shutdown(t.Context()))
		},
		status: StatusFailed, is: []error{ErrQueueClosed}, after: 5 * time.Second,
	},
	{
		name: "Shutdown finishes what waits", process: sleeper, req: Request[int]{Params: 1}, busy: 6,
		act: func(t *testing.T, q *Queue[int, int], _ string, _ func()) {
			require.NoError(t, q.Shutdown(t.Context()))
		},
		status: StatusCompleted, attempts: 1, after: 7 * time.Second,
	},
	{
		name: "Shutdown cut off in line", process: sleeper, req: Request[int]{Params: 1}, busy: 60,
		act: func(t *testing.T, q *Queue[int, int], _ string, _ func()) {
			require.ErrorIs(t, q.Shutdown(ended()), context.Canceled)
		},
		status: StatusFailed, is: []error{ErrQueueClosed}, after: 5 * time.Second,
	},
	{
		name: "Shutdown cut off while it runs", process: sleeper, req: Request[int]{Params: 60},
		act: func(t *testing.T, q *Queue[int, int], _ string, _ func()) {
			require.ErrorIs(t, q.Shutdown(ended()), context.Canceled)
		},
		status: StatusFailed, is: []error{ErrQueueClosed}, attempts: 1, after: 5 * time.Second,
	},
	{
		name:    "Shutdown cut off between two attempts",
		process: func(context.Context, Request[int]) (int, error) { return 0, RateLimited(errBoom, time.Hour) },
		act: func(t *testing.T, q *Queue[int, int], _ string, _ func()) {
			require.ErrorIs(t, q.Shutdown(ended()), context.Canceled)
		},
		status: StatusFailed, is: []error{ErrQueueClosed}, attempts: 1, after: 5 * time.Second,
	},
	{
		name: "Shutdown cut off while a processor that ignores its context runs", process: deaf, req: Request[int]{Params: 60},
		slot: 55 * time.Second,
		act: func(t *testing.T, q *Queue[int, int], _ string, _ func()) {
			begin := time.Now()
			err := q.Shutdown(ended())
			assert.ErrorIs(t, err, context.Canceled)
			assert.ErrorContains(t, err, "1 processor abandoned")
			assert.Equal(t, time.Second, time.Since(begin), "Shutdown waits a moment")
		},
		status: StatusFailed, is: []error{ErrQueueClosed}, attempts: 1, after: 5 * time.Second,
	},
}

// The table of outcomes, row by row, of a caller that waits.
func TestOutcomesWaiting(t *testing.T) {
	for _, o := range outcomes {
		t.Run(o.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				q, ctx, giveUp := o.begin(t)
				var resp Response[int]
				var err error
				var returned time.Duration
				submitted := time.Now()
				answered := make(chan struct{})
				go func() {
					defer close(answered)
					resp, err = q.Submit(ctx, o.req)
					returned = time.Since(submitted)
				}()
				o.play(t, q, giveUp)
				<-answered
				o.check(t, resp, err)
				if o.after >= 0 {
					assert.Equal(t, o.after, returned, "Submit returned late")
				}
				o.checkLater(t, q, resp)
			})
		})
	}
}

// The same, fire and forget: what Wait gives, and Status agrees.
func TestOutcomesNoWait(t *testing.T) {
	for _, o := range outcomes {
		if o.caller {
			continue
		}
		t.Run(o.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				q, ctx, giveUp := o.begin(t)
				req := o.req
				req.NoWait = true
				pending, err := q.Submit(ctx, req)
				require.NoError(t, err)
				assert.Equal(t, StatusPending, pending.Status)
				assert.Equal(t, "r", pending.RequestID)
				assert.Equal(t, o.busy > 0, pending.Position == 1, "position")
				if o.busy == 0 {
					assert.Zero(t, pending.EstimatedStart)
				}
				answered := make(chan struct{})
				var resp Response[int]
				go func() {
					defer close(answered)
					resp, err = q.Wait(t.Context(), "r")
				}()
				o.play(t, q, giveUp)
				<-answered
				o.check(t, resp, err)

				again, err := q.Wait(t.Context(), "r")
				o.check(t, again, err)
				assert.Equal(t, resp, again, "the second Wait")
				now, err := q.Status("r")
				require.NoError(t, err, "Status errs only when there is nothing to look up")
				assert.Equal(t, resp, now, "Status")
				o.checkLater(t, q, resp)
			})
		})
	}
}

func (o *outcome) begin(t *testing.T) (*Queue[int, int], context.Context, func()) {
	o.req.ID, o.req.Metadata = "r", map[string]string{"k": "v"}
	process := o.process
	q := newQueue(t, func(ctx context.Context, r Request[int]) (int, error) {
		if strings.HasPrefix(r.ID, "busy") {
			return sleeper(ctx, r)
		}
		return process(ctx, r)
	}, append([]Option{WithLimits(Concurrent(1))}, o.opts...)...)
	if o.busy > 0 {
		post(t, q, Request[int]{ID: "busy", Params: o.busy})
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	t.Cleanup(func() { cancel(nil) })
	return q, ctx, func() { cancel(errCause) }
}

// play lets the row happen, five seconds after the request came.
func (o *outcome) play(t *testing.T, q *Queue[int, int], giveUp func()) {
	if o.act == nil {
		return
	}
	time.Sleep(5 * time.Second)
	addsUp(t, q)
	o.act(t, q, "r", giveUp)
}

func (o *outcome) check(t *testing.T, resp Response[int], err error) {
	t.Helper()
	assert.Equal(t, o.status, resp.Status)
	assert.Equal(t, resp.Err, err, "the response and the error agree")
	assert.Equal(t, "r", resp.RequestID)
	assert.Equal(t, "m", resp.ModelID)
	assert.Equal(t, map[string]string{"k": "v"}, resp.Metadata)
	assert.Equal(t, o.attempts, resp.Attempts)
	assert.Zero(t, resp.Position)
	assert.Zero(t, resp.EstimatedStart)
	assert.Equal(t, o.attempts > 0, !resp.StartedAt.IsZero(), "StartedAt is set when it started")
	if o.after >= 0 {
		assert.Equal(t, o.after, resp.FinishedAt.Sub(resp.CreatedAt))
	}
	if o.status == StatusCompleted {
		assert.NoError(t, err)
		assert.Equal(t, o.req.Params, resp.Result)
		return
	}
	require.Error(t, err)
	assert.Zero(t, resp.Result, "no result beside an error")
	for _, want := range o.is {
		assert.ErrorIs(t, err, want)
	}
	var failed *ProcessingError
	if assert.Equal(t, o.ran, errors.As(err, &failed), "ProcessingError: %v", err) && o.ran {
		assert.Equal(t, "m", failed.ModelID)
		assert.Equal(t, "r", failed.RequestID)
		assert.Equal(t, o.attempts, failed.Attempts)
	}
	var panicked *PanicError
	if assert.Equal(t, o.panicked, errors.As(err, &panicked), "PanicError: %v", err) && o.panicked {
		assert.NotNil(t, panicked.Value)
		assert.NotEmpty(t, panicked.Stack)
	}
	for _, sentinel := range []error{ErrCanceled, ErrQueueTimeout, ErrQueueClosed, ErrInvalidResult, ErrRequestTooLarge, ErrQueueFull} {
		wanted := false
		for _, want := range o.is {
			wanted = wanted || want == sentinel
		}
		assert.Equal(t, wanted, errors.Is(err, sentinel), "%v is %v", err, sentinel)
	}
}

// checkLater looks at the queue after the end: the counters, and that a processor
// that ignores its context keeps its slot until it returns.
func (o *outcome) checkLater(t *testing.T, q *Queue[int, int], resp Response[int]) {
	synctest.Wait()
	i := addsUp(t, q)
	if o.slot > 0 {
		assert.Equal(t, 1, i.Abandoned)
		assert.EqualValues(t, 1, i.Limits[0].Used, "its slot stays taken")
		if !i.Closed {
			next := post(t, q, Request[int]{ID: "busy next"})
			after, err := q.Wait(t.Context(), next)
			require.NoError(t, err)
			assert.Equal(t, o.slot, after.StartedAt.Sub(resp.FinishedAt),
				"the next request starts when the processor returns")
		}
		time.Sleep(o.slot)
		synctest.Wait()
	}
	time.Sleep(time.Minute)
	synctest.Wait()
	i = addsUp(t, q)
	assert.Zero(t, i.Pending)
	assert.Zero(t, i.Processing)
	assert.Zero(t, i.Abandoned)
	assert.Zero(t, i.Limits[0].Used, "slots")
	switch resp.Status {
	case StatusCompleted:
		assert.Zero(t, i.Failed+i.Canceled)
	case StatusFailed:
		assert.NotZero(t, i.Failed)
	case StatusCanceled:
		assert.EqualValues(t, 1, i.Canceled)
	}
	if !i.Closed {
		q.Resume()
		_, err := q.Submit(t.Context(), Request[int]{ID: "busy 2"})
		assert.NoError(t, err, "the queue goes on")
	}
}

// A request that was fire and forget is nobody's: its caller may go.
func TestNoWaitOutlivesItsCaller(t *testing.T) {
	type key struct{}
	synctest.Test(t, func(t *testing.T) {
		var value any
		q := newQueue(t, func(ctx context.Context, r Request[int]) (int, error) {
			_, bounded := ctx.Deadline()
			assert.False(t, bounded, "the caller's deadline is not the request's")
			value = ctx.Value(key{})
			return sleeper(ctx, r)
		}, WithLimits(Concurrent(1)))
		ctx, cancel := context.WithTimeout(context.WithValue(t.Context(), key{}, "kept"), time.Second)
		running, err := q.Submit(ctx, Request[int]{Params: 5, NoWait: true})
		require.NoError(t, err)
		waiting, err := q.Submit(ctx, Request[int]{Params: 5, NoWait: true})
		require.NoError(t, err)
		cancel()
		for _, r := range []Response[int]{running, waiting} {
			resp, err := q.Wait(t.Context(), r.RequestID)
			require.NoError(t, err)
			assert.Equal(t, 5, resp.Result)
		}
		assert.Equal(t, "kept", value, "it keeps the context's values")
	})
}

// What Submit refuses leaves no trace.
func TestRefused(t *testing.T) {
	type params struct {
		Text string `validate:"required"`
	}
	ok := params{"hello"}
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(t, func(ctx context.Context, r Request[params]) (string, error) {
			time.Sleep(time.Second)
			return r.Params.Text, nil
		}, WithLimits(TPM(100), Concurrent(1)), WithMaxQueued(1))
		post(t, q, Request[params]{ID: "running", Params: ok, Estimate: in(1)})
		canceled, cancel := context.WithCancelCause(t.Context())
		cancel(errCause)
		refused := func(ctx context.Context, req Request[params], want ...error) {
			t.Helper()
			for _, noWait := range []bool{false, true} {
				req.NoWait = noWait
				resp, err := q.Submit(ctx, req)
				assert.Zero(t, resp)
				for _, w := range want {
					assert.ErrorIs(t, err, w)
				}
			}
		}
		refused(canceled, Request[params]{Params: ok}, ErrCanceled, errCause)
		refused(t.Context(), Request[params]{}, ErrInvalidParams)
		refused(t.Context(), Request[params]{Params: ok, MaxWait: -1}, ErrInvalidParams)
		refused(t.Context(), Request[params]{Params: ok, Estimate: in(-1)}, ErrInvalidParams)
		refused(t.Context(), Request[params]{Params: ok, ModelID: "other"}, ErrModelNotRegistered)
		refused(t.Context(), Request[params]{Params: ok, Estimate: in(101)}, ErrRequestTooLarge)
		refused(t.Context(), Request[params]{Params: ok, ID: "running"}, ErrDuplicateRequest)
		post(t, q, Request[params]{Params: ok, ID: "waiting", Estimate: in(1)})
		refused(t.Context(), Request[params]{Params: ok}, ErrQueueFull)
		assert.EqualValues(t, 2, addsUp(t, q).Accepted)
		require.NoError(t, q.Shutdown(t.Context()))
		refused(t.Context(), Request[params]{Params: ok}, ErrQueueClosed)
		assert.EqualValues(t, 2, addsUp(t, q).Completed)
	})
}

// answer is a result with rules and a usage of its own.
type answer struct {
	Text string `validate:"required"`
	Used int64
}

func (a answer) TokenUsage() Usage { return in(a.Used) }

// A result that breaks its rules was paid for all the same.
func TestInvalidResult(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(t, func(_ context.Context, r Request[int]) (answer, error) {
			return answer{Used: 30}, nil
		}, WithLimits(TPM(100)))
		resp, err := q.Submit(t.Context(), Request[int]{ID: "r", Estimate: in(80)})
		require.ErrorIs(t, err, ErrInvalidResult)
		assert.Equal(t, resp.Err, err)
		assert.Equal(t, StatusFailed, resp.Status)
		assert.Zero(t, resp.Result)
		assert.Equal(t, in(30), resp.Usage)
		assert.EqualValues(t, 30, q.Info().Limits[0].Used)
		assert.EqualValues(t, 1, addsUp(t, q).Failed)
		assert.Equal(t, 1, resp.Attempts, "trying again would cost as much again")

		id := post(t, q, Request[int]{Estimate: in(10)})
		resp, err = q.Wait(t.Context(), id)
		require.ErrorIs(t, err, ErrInvalidResult)
		assert.Equal(t, resp, status(t, q, id))
	})
}

// A request whose caller left the line used no quota; neither did one that was
// canceled or waited too long.
func TestLeavingTheLineUsesNoQuota(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(t, sleeper, WithLimits(RPM(1000), TPM(1000), Concurrent(1)))
		post(t, q, Request[int]{Params: 30, Estimate: in(1)})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := q.Submit(ctx, Request[int]{Estimate: in(100)})
		require.ErrorIs(t, err, ErrCanceled)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		_, err = q.Submit(t.Context(), Request[int]{Estimate: in(100), MaxWait: time.Second})
		require.ErrorIs(t, err, ErrQueueTimeout)
		id := post(t, q, Request[int]{Estimate: in(100)})
		require.NoError(t, q.Cancel(id))
		assert.Zero(t, q.Len())
		i := addsUp(t, q)
		assert.EqualValues(t, 1, i.Limits[0].Used)
		assert.EqualValues(t, 1, i.Limits[1].Used)
		assert.EqualValues(t, 2, i.Canceled)
		assert.EqualValues(t, 1, i.Failed)
	})
}

// The processor's context tells why: it ended, and how.
func TestProcessorContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var err error
		q := newQueue(t, func(ctx context.Context, r Request[int]) (int, error) {
			derived, cancel := context.WithCancel(ctx)
			defer cancel()
			<-derived.Done()
			err = ctx.Err()
			return 0, err
		}, WithUnlimited(), WithTimeout(time.Minute))

		_, got := q.Submit(t.Context(), Request[int]{})
		assert.ErrorIs(t, got, context.DeadlineExceeded)
		synctest.Wait()
		assert.Equal(t, context.DeadlineExceeded, err)

		id := post(t, q, Request[int]{})
		require.NoError(t, q.Cancel(id))
		synctest.Wait()
		assert.Equal(t, context.Canceled, err)
	})
}
