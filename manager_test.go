package llmqueue

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func newManager[P, T any](t testing.TB, opts ...Option) *Manager[P, T] {
	t.Helper()
	m := NewManager[P, T](opts...)
	t.Cleanup(func() {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		_ = m.Shutdown(ctx)
	})
	return m
}

func TestManagerRoutesByModel(t *testing.T) {
	m := newManager[int, string](t, WithUnlimited())
	for _, id := range []string{"b", "a", "c"} {
		q, err := m.Register(id, func(_ context.Context, r Request[int]) (string, error) {
			return fmt.Sprint(id, r.ModelID, r.Params), nil
		})
		require.NoError(t, err)
		assert.Equal(t, id, q.ModelID())
		same, ok := m.Queue(id)
		assert.True(t, ok)
		assert.Same(t, q, same)
	}
	assert.Equal(t, []string{"a", "b", "c"}, m.Models())
	r, err := m.Submit(t.Context(), NewRequest("b", 7))
	require.NoError(t, err)
	assert.Equal(t, "bb7", r.Result)
	assert.Equal(t, "b", r.ModelID)

	infos := m.InfoAll()
	require.Len(t, infos, 3)
	assert.Equal(t, []string{"a", "b", "c"}, []string{infos[0].ModelID, infos[1].ModelID, infos[2].ModelID})
	assert.EqualValues(t, 1, infos[1].Completed)
}

// Every method that names a model says so when there is none.
func TestManagerUnknownModel(t *testing.T) {
	m := newManager[int, int](t, WithUnlimited())
	_, err := m.Register("m", echo)
	require.NoError(t, err)
	for _, id := range []string{"", "other"} {
		for name, call := range map[string]func() error{
			"Submit":      func() error { r, err := m.Submit(t.Context(), NewRequest(id, 1)); assert.Zero(t, r); return err },
			"Status":      func() error { _, err := m.Status(id, "x"); return err },
			"Wait":        func() error { _, err := m.Wait(t.Context(), id, "x"); return err },
			"Cancel":      func() error { return m.Cancel(id, "x") },
			"UpdateUsage": func() error { return m.UpdateUsage(id, "x", Usage{}) },
			"SetLimits":   func() error { return m.SetLimits(id, RPM(1)) },
			"Info":        func() error { _, err := m.Info(id); return err },
			"Requests":    func() error { _, err := m.Requests(id, RequestFilter{}); return err },
			"Pause":       func() error { return m.Pause(id) },
			"Resume":      func() error { return m.Resume(id) },
			"Unregister":  func() error { return m.Unregister(t.Context(), id) },
		} {
			want := ErrModelNotRegistered
			if id == "" && slices.Contains([]string{"Status", "Wait", "Cancel", "UpdateUsage"}, name) {
				want = ErrRequestNotFound // of whatever model
			}
			assert.ErrorIs(t, call(), want, "%s of %q", name, id)
		}
		_, ok := m.Queue(id)
		assert.False(t, ok)
	}
	q, _ := m.Queue("m")
	_, err = q.Submit(t.Context(), NewRequest("other", 1))
	assert.ErrorIs(t, err, ErrModelNotRegistered)
}

// Every other method is the queue's own.
func TestManagerPassesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := NewManager[int, int](WithLimits(TPM(100)))
		q, err := m.Register("m", echo)
		require.NoError(t, err)
		require.NoError(t, m.Pause("m"))
		require.NoError(t, m.Pause("m"), "Pause is idempotent")
		assert.True(t, q.Info().Paused)
		var ids []string
		for i := range 3 {
			r, err := m.Submit(t.Context(), Request[int]{ModelID: "m", Params: i, NoWait: true, Estimate: Usage{InputTokens: 10}})
			require.NoError(t, err)
			assert.Equal(t, i+1, r.Position)
			assert.Zero(t, r.EstimatedStart, "nobody knows when a pause ends")
			ids = append(ids, r.RequestID)
		}
		require.NoError(t, m.Cancel("m", ids[1]))
		require.NoError(t, m.Cancel("m", ids[1]), "canceling again is no error")
		r, err := m.Status("m", ids[2])
		require.NoError(t, err)
		assert.Equal(t, 2, r.Position)
		require.NoError(t, m.UpdateUsage("m", ids[2], Usage{InputTokens: 40}))
		infos, err := m.Requests("m", RequestFilter{})
		require.NoError(t, err)
		require.Len(t, infos, 3)
		assert.Equal(t, []string{ids[0], ids[2], ids[1]}, []string{infos[0].ID, infos[1].ID, infos[2].ID}, "waiting in order, then finished")
		assert.EqualValues(t, 40, infos[1].Estimate.InputTokens)
		assert.NotEmpty(t, infos[2].Error)
		require.NoError(t, m.SetLimits("m", TPM(30)), "and what cannot fit any more fails")
		r, err = m.Wait(t.Context(), "m", ids[2])
		assert.ErrorIs(t, err, ErrRequestTooLarge)
		assert.Equal(t, StatusFailed, r.Status)
		require.NoError(t, m.Resume("m"))
		r, err = m.Wait(t.Context(), "m", ids[0])
		require.NoError(t, err)
		assert.Equal(t, 0, r.Result)
		info, err := m.Info("m")
		require.NoError(t, err)
		assert.Equal(t, []int64{3, 1, 1, 1}, []int64{info.Accepted, info.Completed, info.Failed, info.Canceled})
		require.NoError(t, m.Shutdown(t.Context()))
	})
}

func TestRegisterTwice(t *testing.T) {
	m := newManager[int, int](t, WithUnlimited())
	q, err := m.Register("m", echo)
	require.NoError(t, err)
	_, err = m.Register("m", echo)
	require.ErrorIs(t, err, ErrModelRegistered)
	same, _ := m.Queue("m")
	assert.Same(t, q, same)

	// Of many at once exactly one wins.
	var won atomic.Int64
	var all sync.WaitGroup
	for range 16 {
		all.Go(func() {
			switch _, err := m.Register("race", echo); {
			case err == nil:
				won.Add(1)
			case !errors.Is(err, ErrModelRegistered):
				t.Error(err)
			}
		})
	}
	all.Wait()
	assert.EqualValues(t, 1, won.Load())
}

func TestRegisterAllIsAllOrNone(t *testing.T) {
	m := newManager[int, int](t, WithLimits(RPM(1)))
	_, err := m.Register("there", echo, WithLimits(RPM(9)))
	require.NoError(t, err)
	good := func(id string) ModelConfig { return ModelConfig{ModelID: id, Limits: []Limit{RPM(5)}} }
	for name, bad := range map[string]ModelConfig{
		"no id":            good(""),
		"twice":            good("a"),
		"wrong limit":      {ModelID: "z", Limits: []Limit{RPM(0)}},
		"same limit twice": {ModelID: "z", Limits: []Limit{RPM(1), RPM(2)}},
	} {
		err := m.RegisterAll([]ModelConfig{good("a"), good("b"), bad}, echo)
		require.ErrorIs(t, err, ErrInvalidConfiguration, name)
		assert.Equal(t, []string{"there"}, m.Models(), name)
	}
	require.ErrorIs(t, m.RegisterAll([]ModelConfig{good("a")}, nil), ErrInvalidConfiguration)
	assert.Equal(t, []string{"there"}, m.Models())

	err = m.RegisterAll([]ModelConfig{good("a"), good("there")}, echo)
	require.ErrorIs(t, err, ErrModelRegistered, "its limits would be ignored")
	assert.Contains(t, err.Error(), `model "there"`)
	assert.Equal(t, []string{"there"}, m.Models(), "a part of the list was registered")

	require.NoError(t, m.RegisterAll([]ModelConfig{good("a"), {ModelID: "bare"}}, echo, WithLimits(RPM(3))))
	assert.Equal(t, []string{"a", "bare", "there"}, m.Models())
	limit := func(id string) Limit {
		info, err := m.Info(id)
		require.NoError(t, err)
		return info.Limits[0].Limit
	}
	assert.Equal(t, RPM(5), limit("a"), "a model's own limits win")
	assert.Equal(t, RPM(3), limit("bare"), "without any, those given to RegisterAll")
	assert.Equal(t, RPM(9), limit("there"), "a registered model stays as it was")
	require.NoError(t, m.RegisterAll(nil, echo))
}

func TestUnregister(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := NewManager[int, int](WithUnlimited())
		slow := func(ctx context.Context, r Request[int]) (int, error) {
			select {
			case <-time.After(time.Minute):
				return r.Params, nil
			case <-ctx.Done():
				return 0, ctx.Err()
			}
		}
		_, err := m.Register("m", slow)
		require.NoError(t, err)
		q, _ := m.Queue("m")
		made := q.Info().Since
		assert.WithinDuration(t, time.Now(), made, 0)
		r, err := m.Submit(t.Context(), Request[int]{ModelID: "m", Params: 3, NoWait: true})
		require.NoError(t, err)
		require.NoError(t, m.Unregister(t.Context(), "m"), "it drains the queue")
		assert.Empty(t, m.Models())
		got, err := q.Status(r.RequestID)
		require.NoError(t, err)
		assert.Equal(t, StatusCompleted, got.Status)
		_, err = m.Submit(t.Context(), NewRequest("m", 1))
		assert.ErrorIs(t, err, ErrModelNotRegistered)

		// Also when its context ends first, and the name is free at once.
		_, err = m.Register("m", slow)
		require.NoError(t, err)
		q, _ = m.Queue("m")
		assert.Equal(t, time.Minute, q.Info().Since.Sub(made), "whose counts began anew")
		r, err = m.Submit(t.Context(), Request[int]{ModelID: "m", NoWait: true})
		require.NoError(t, err)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		begin := time.Now()
		require.ErrorIs(t, m.Unregister(ctx, "m"), context.DeadlineExceeded)
		assert.Equal(t, time.Second, time.Since(begin))
		assert.Empty(t, m.Models())
		got, err = q.Wait(t.Context(), r.RequestID)
		assert.ErrorIs(t, err, ErrQueueClosed)
		assert.Equal(t, StatusFailed, got.Status)
		_, err = m.Register("m", slow)
		require.NoError(t, err)
		require.NoError(t, m.Shutdown(t.Context()))
	})
}

func TestManagerShutdown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := NewManager[int, int](WithUnlimited())
		for _, id := range []string{"a", "b"} {
			_, err := m.Register(id, func(_ context.Context, r Request[int]) (int, error) {
				time.Sleep(time.Duration(r.Params) * time.Second)
				return r.Params, nil
			}, WithShutdownGrace(time.Second))
			require.NoError(t, err)
		}
		ra, err := m.Submit(t.Context(), Request[int]{ModelID: "a", Params: 5, NoWait: true})
		require.NoError(t, err)
		rb, err := m.Submit(t.Context(), Request[int]{ModelID: "b", Params: 60, NoWait: true})
		require.NoError(t, err)
		ctx, cancel := context.WithTimeoutCause(t.Context(), 10*time.Second, errors.New("the deploy waits no longer"))
		defer cancel()
		begin := time.Now()
		err = m.Shutdown(ctx)
		assert.Equal(t, 11*time.Second, time.Since(begin), "queues drain side by side, the grace after the context's end")
		require.ErrorContains(t, err, "the deploy waits no longer")
		assert.ErrorContains(t, err, `model "b": 1 processor abandoned`)

		got, err := m.Status("a", ra.RequestID)
		require.NoError(t, err, "what ended can still be looked up")
		assert.Equal(t, StatusCompleted, got.Status)
		got, err = m.Status("b", rb.RequestID)
		require.NoError(t, err)
		assert.Equal(t, StatusFailed, got.Status)
		assert.ErrorIs(t, got.Err, ErrQueueClosed)
		_, err = m.Submit(t.Context(), NewRequest("a", 1))
		assert.ErrorIs(t, err, ErrQueueClosed)
		_, err = m.Register("c", echo)
		assert.ErrorIs(t, err, ErrQueueClosed)
		assert.ErrorIs(t, m.RegisterAll([]ModelConfig{{ModelID: "c"}}, echo), ErrQueueClosed)
		assert.Equal(t, []string{"a", "b"}, m.Models())
		require.NoError(t, m.Shutdown(t.Context()), "twice is fine: it waits for the processor that was left")
		assert.Equal(t, time.Minute, time.Since(begin))
	})
}

// InfoAll and Models while models come and go.
func TestManagerUnderChange(t *testing.T) {
	m := newManager[int, int](t, WithUnlimited())
	var all sync.WaitGroup
	for i := range 8 {
		id := fmt.Sprint("m", i)
		all.Go(func() {
			for range 50 {
				if _, err := m.Register(id, echo); err != nil {
					t.Error(err)
				}
				if _, err := m.Submit(t.Context(), NewRequest(id, 1)); err != nil {
					t.Error(err)
				}
				if err := m.Unregister(t.Context(), id); err != nil {
					t.Error(err)
				}
			}
		})
		all.Go(func() {
			for range 50 {
				models := m.Models()
				if !slices.IsSorted(models) {
					t.Errorf("models %v are not sorted", models)
				}
				m.InfoAll()
			}
		})
	}
	all.Wait()
	assert.Empty(t, m.Models())
}
