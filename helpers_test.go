package llmqueue

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

var errBoom = errors.New("boom")

// in is a usage of n input tokens.
func in(n int64) Usage { return Usage{InputTokens: n} }

// sleeper is a processor that works for as many seconds as its params say and heeds
// its context.
func sleeper(ctx context.Context, r Request[int]) (int, error) {
	select {
	case <-time.After(time.Duration(r.Params) * time.Second):
		return r.Params, nil
	case <-ctx.Done():
		return 0, ctx.Err()
	}
}

// deaf is a processor that works for as many seconds as its params say, whatever its
// context does.
func deaf(_ context.Context, r Request[int]) (int, error) {
	time.Sleep(time.Duration(r.Params) * time.Second)
	return r.Params, nil
}

// post submits a fire-and-forget request that has to be accepted.
func post[P, T any](t testing.TB, q *Queue[P, T], req Request[P]) string {
	t.Helper()
	req.NoWait = true
	resp, err := q.Submit(t.Context(), req)
	require.NoError(t, err)
	require.Equal(t, StatusPending, resp.Status)
	return resp.RequestID
}

// status looks a request up that the queue has to know.
func status[P, T any](t testing.TB, q *Queue[P, T], id string) Response[T] {
	t.Helper()
	resp, err := q.Status(id)
	require.NotEmpty(t, resp.RequestID, "%v", err) // the error may say that there is no result
	return resp
}

// addsUp checks that no request is lost and none is counted twice.
func addsUp[P, T any](t testing.TB, q *Queue[P, T]) QueueInfo {
	t.Helper()
	i := q.Info()
	assert.Equal(t, i.Accepted, int64(i.Pending)+int64(i.Processing)+int64(i.Forwarded)+i.Completed+i.Failed+i.Canceled,
		"accepted = pending + processing + forwarded + completed + failed + canceled: %+v", i)
	return i
}

// ended is a context whose time is over.
func ended() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}
