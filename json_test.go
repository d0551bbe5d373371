package llmqueue

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

type wireAnswer struct {
	Text  string `json:"text"`
	Score int    `json:"score"`
}

func roundTrip[T any](t testing.TB, r Response[T]) (got Response[T], text string) {
	t.Helper()
	b, err := json.Marshal(r)
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(b, &got))
	return got, string(b)
}

func TestResponseRoundTripsThroughJSON(t *testing.T) {
	at := time.Date(2026, 3, 1, 12, 0, 0, 123456789, time.UTC)
	r := Response[wireAnswer]{
		RequestID: "a", ModelID: "m", Status: StatusCompleted, Result: wireAnswer{"hello", 3},
		Usage: Usage{InputTokens: 1, OutputTokens: 2, CachedInputTokens: 1}, Attempts: 2,
		Metadata: map[string]string{"k": "v"}, CreatedAt: at, StartedAt: at.Add(time.Second), FinishedAt: at.Add(time.Minute),
	}
	got, text := roundTrip(t, r)
	assert.Equal(t, r, got)
	assert.NotContains(t, text, "error")
	assert.Equal(t, time.Second, got.WaitTime())
	assert.Equal(t, 59*time.Second, got.ProcessingTime())

	pending := Response[wireAnswer]{RequestID: "a", ModelID: "m", Status: StatusPending, Position: 7, EstimatedStart: at, CreatedAt: at}
	got, text = roundTrip(t, pending)
	assert.Equal(t, pending, got)
	for _, absent := range []string{"result", "started_at", "finished_at", "metadata"} {
		assert.NotContains(t, text, absent)
	}
	assert.Zero(t, got.WaitTime())
	assert.Zero(t, got.ProcessingTime())
}

// A zero result of a completed request is a result.
func TestCompletedResponseWritesAZeroResult(t *testing.T) {
	_, text := roundTrip(t, Response[int]{Status: StatusCompleted})
	assert.Contains(t, text, `"result":0`)
	_, text = roundTrip(t, Response[*wireAnswer]{Status: StatusCompleted})
	assert.Contains(t, text, `"result":null`)
}

func TestResponseErrorsSurviveJSON(t *testing.T) {
	sentinels := []error{
		ErrModelNotRegistered, ErrModelRegistered, ErrInvalidConfiguration, ErrInvalidParams, ErrInvalidResult, ErrDuplicateRequest,
		ErrRequestNotFound, ErrQueueFull, ErrQueueClosed, ErrQueueTimeout, ErrRequestTooLarge, ErrCanceled,
		context.Canceled, context.DeadlineExceeded,
	}
	for _, want := range sentinels {
		t.Run(want.Error(), func(t *testing.T) {
			plain, _ := roundTrip(t, Response[int]{Status: StatusFailed, Err: fmt.Errorf("%w: do this", want)})
			require.EqualError(t, plain.Err, want.Error()+": do this")
			wrapped := &ProcessingError{ModelID: "m", RequestID: "r", Attempts: 3, Err: fmt.Errorf("%w: do that", want)}
			failed, _ := roundTrip(t, Response[int]{RequestID: "r", ModelID: "m", Attempts: 3, Status: StatusFailed, Err: wrapped})
			require.EqualError(t, failed.Err, wrapped.Error())
			for _, is := range sentinels {
				assert.Equal(t, is == want, errors.Is(plain.Err, is), "errors.Is %v", is)
				assert.Equal(t, is == want, errors.Is(failed.Err, is), "errors.Is %v", is)
			}
			var pe *ProcessingError
			assert.False(t, errors.As(plain.Err, &pe))
			require.True(t, errors.As(failed.Err, &pe))
			assert.Equal(t, 3, pe.Attempts)
			assert.Equal(t, "m", pe.ModelID)
			assert.Equal(t, "r", pe.RequestID)

			// Twice through the wire is as good as once.
			again, _ := roundTrip(t, failed)
			assert.EqualError(t, again.Err, wrapped.Error())
			assert.ErrorIs(t, again.Err, want)
		})
	}
	other, text := roundTrip(t, Response[int]{Status: StatusFailed, Err: errors.New("free text")})
	assert.EqualError(t, other.Err, "free text")
	assert.Contains(t, text, `"error_code":"error"`)
	var pe *ProcessingError
	own, text := roundTrip(t, Response[int]{Status: StatusFailed, Err: &ProcessingError{Attempts: 1, Err: errors.New("boom")}})
	require.True(t, errors.As(own.Err, &pe))
	assert.EqualError(t, pe.Err, "boom")
	assert.Contains(t, text, `"error_code":"processing_error"`)
	empty, _ := roundTrip(t, Response[int]{Status: StatusFailed, Err: errors.New("")})
	assert.Error(t, empty.Err, "an error without text is still an error")
}

// What a queue really returns comes back over the wire as what it was.
func TestRealErrorsSurviveJSON(t *testing.T) {
	q := newQueue(t, func(_ context.Context, r Request[string]) (int, error) {
		switch r.Params {
		case "panic":
			panic("oh")
		case "deadline":
			return 0, context.DeadlineExceeded
		}
		return 0, errors.New(r.Params)
	}, WithUnlimited())
	r, err := q.Submit(t.Context(), Request[string]{Params: "panic"})
	require.Error(t, err)
	got, text := roundTrip(t, r)
	assert.EqualError(t, got.Err, err.Error())
	assert.NotContains(t, text, "goroutine", "no stack on the wire")
	r, err = q.Submit(t.Context(), Request[string]{Params: "deadline"})
	require.ErrorIs(t, err, context.DeadlineExceeded)
	got, _ = roundTrip(t, r)
	assert.ErrorIs(t, got.Err, context.DeadlineExceeded)
	r, _ = q.Submit(t.Context(), Request[string]{Params: "boom"})
	got, _ = roundTrip(t, r)
	assert.EqualError(t, got.Err, r.Err.Error())
	assert.Equal(t, r.Attempts, got.Attempts)
}

func TestResponseRefusesWrongJSON(t *testing.T) {
	var r Response[int]
	for _, bad := range []string{`[]`, `{"result":"text"}`, `{"attempts":"x"}`, `{"created_at":"yesterday"}`} {
		assert.Error(t, json.Unmarshal([]byte(bad), &r), bad)
	}
	require.NoError(t, json.Unmarshal([]byte(`{"status":"failed","error":"x","error_code":"from_the_future"}`), &r))
	assert.EqualError(t, r.Err, "x")
}

func TestInfoToJSON(t *testing.T) {
	q := newQueue(t, echo, WithLimits(RPM(10), Concurrent(2)))
	_, err := q.Do(t.Context(), 1)
	require.NoError(t, err)
	b, err := json.Marshal(q.Info())
	require.NoError(t, err)
	for _, want := range []string{`"model_id":"m"`, `"completed":1`, `"limit":{"type":"rpm","limit":10,"time_period":"1m0s"}`, `"used":1`, `"available":9`} {
		assert.Contains(t, string(b), want)
	}
	assert.False(t, strings.Contains(string(b), "paused_until"), "a zero time is left out")
}

func TestStatusFinal(t *testing.T) {
	for s, final := range map[Status]bool{
		StatusPending: false, StatusProcessing: false, "": false, "other": false,
		StatusCompleted: true, StatusFailed: true, StatusCanceled: true,
	} {
		assert.Equal(t, final, s.Final(), string(s))
	}
}

func TestEstimateTokens(t *testing.T) {
	for text, want := range map[string]int64{"": 0, "a": 1, "abcd": 1, "abcde": 2, "ääää": 2} {
		assert.Equal(t, want, EstimateTokens(text), text)
	}
}
