package llmqueue_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/llmqueue/llmqueue"
)

// A caller that polls has an id and nothing else: a Manager that knows the id finds its model.
func TestLookingUpByIDAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		m := llmqueue.NewManager[string, string](llmqueue.WithUnlimited())
		ask := func(_ context.Context, req llmqueue.Request[string]) (string, error) {
			<-release
			if req.Params == "elsewhere" && req.ModelID == "a" {
				return "", llmqueue.Elsewhere(errors.New("not here"))
			}
			return req.ModelID, nil
		}
		for _, model := range []string{"a", "b", "c"} {
			opts := []llmqueue.Option{llmqueue.WithLimits(llmqueue.Concurrent(1))}
			if model == "a" {
				opts = append(opts, llmqueue.WithFallback("b"))
			}
			_, err := m.Register(model, ask, opts...)
			require.NoError(t, err)
		}
		submit := func(model, id, params string) string {
			req := llmqueue.NewRequest(model, params)
			req.ID, req.NoWait = id, true
			resp, err := m.Submit(t.Context(), req)
			require.NoError(t, err)
			return resp.RequestID
		}
		assigned, own, moved, waits := submit("b", "", ""), submit("c", "mine", ""), submit("a", "", "elsewhere"), submit("c", "", "")
		synctest.Wait()
		for id, model := range map[string]string{assigned: "b", own: "c", moved: "a", waits: "c"} {
			resp, err := m.Status("", id)
			require.NoError(t, err)
			assert.Equal(t, model, resp.ModelID)
		}
		require.NoError(t, m.UpdateUsage("", waits, llmqueue.Usage{InputTokens: 3}))
		require.NoError(t, m.Cancel("", waits))
		close(release)
		for id, answer := range map[string]string{assigned: "b", own: "c", moved: "b"} { // b is a's fallback
			resp, err := m.Wait(t.Context(), "", id)
			require.NoError(t, err)
			assert.Equal(t, answer, resp.Result)
		}

		_, err := m.Status("", "never")
		require.ErrorIs(t, err, llmqueue.ErrRequestNotFound)
		submit("a", "mine", "")
		_, err = m.Status("", "mine")
		require.ErrorIs(t, err, llmqueue.ErrInvalidParams)
		assert.ErrorContains(t, err, `models "a" and "c" both have a request "mine", name the model`)
		require.NoError(t, m.Shutdown(t.Context()))
	})
}
