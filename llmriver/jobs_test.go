package llmriver_test

import (
	"context"
	"errors"
	"math"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/llmqueue/llmqueue"
	"github.com/llmqueue/llmqueue/llmriver"
)

var errBoom = errors.New("boom")

// A request goes through like one of the manager, and its response stays readable, by an id
// that was assigned or chosen, also for another Open.
func TestSubmit(t *testing.T) {
	onEach(t, func(t *testing.T, p place) {
		m := newManager(t, func(ctx context.Context, r req) (string, error) {
			llmqueue.ReportUsage(ctx, llmqueue.Usage{InputTokens: 3, OutputTokens: 4})
			return upper(ctx, r)
		})
		j := open(t, p, m)
		var ids []string
		for _, id := range []string{"", "chosen", "strange '\"\\ ÿ", "abcdefghijklmnop-1"} {
			resp, err := j.Submit(t.Context(), req{ModelID: model, ID: id, Params: "hi", Tenant: "t", Priority: 7, Metadata: map[string]string{"a": "b"}})
			require.NoError(t, err)
			assert.Equal(t, llmqueue.StatusCompleted, resp.Status)
			assert.Equal(t, "HI", resp.Result)
			assert.Equal(t, map[string]string{"a": "b"}, resp.Metadata)
			assert.Equal(t, 1, resp.Attempts)
			assert.EqualValues(t, 7, resp.Usage.Total())
			if id != "" {
				assert.Equal(t, id, resp.RequestID)
			}
			ids = append(ids, resp.RequestID)
		}
		require.NoError(t, j.Shutdown(t.Context()))
		j = open(t, p, m)
		for _, id := range ids {
			resp := wait(t, j, id)
			assert.Equal(t, "HI", resp.Result, "the result of job %s is gone after a restart", id)
			assert.Equal(t, map[string]string{"a": "b"}, resp.Metadata)
			assert.EqualValues(t, 7, resp.Usage.Total())
			assert.Equal(t, id, resp.RequestID)
		}
		_, err := j.Status(t.Context(), model, "nobody")
		assert.ErrorIs(t, err, llmqueue.ErrRequestNotFound)
		_, err = j.Wait(t.Context(), "another model", ids[0])
		assert.ErrorIs(t, err, llmqueue.ErrRequestNotFound, "a job is found under a model that is not its own")
		assert.ErrorIs(t, j.Cancel(t.Context(), model, "abcdefghijklmnop-9999"), llmqueue.ErrRequestNotFound)
	})
}

// Failures come out as the root's errors, at once and from the store; retries are the
// queue's, and none is added.
func TestFailures(t *testing.T) {
	onEach(t, func(t *testing.T, p place) {
		var runs atomic.Int64
		m := newManager(t, func(_ context.Context, r req) (string, error) {
			runs.Add(1)
			switch r.Params {
			case "panic":
				panic("ouch")
			case "retry":
				return "", llmqueue.Retryable(errBoom)
			}
			return "", errBoom
		}, llmqueue.WithUnlimited(), llmqueue.WithRetry(llmqueue.RetryPolicy{MaxAttempts: 3, BaseDelay: time.Millisecond, MaxDelay: time.Millisecond}))
		j := open(t, p, m)
		for params, want := range map[string]int{"fail": 1, "panic": 1, "retry": 3} {
			runs.Store(0)
			resp, err := j.Submit(t.Context(), req{ModelID: model, Params: params})
			pe := (*llmqueue.ProcessingError)(nil)
			require.ErrorAs(t, err, &pe)
			assert.Equal(t, want, pe.Attempts)
			again := wait(t, j, resp.RequestID)
			require.ErrorAs(t, again.Err, &pe, "the stored error of %q is another", params)
			assert.Equal(t, err.Error(), again.Err.Error())
			assert.EqualValues(t, want, runs.Load(), "%q ran a wrong number of times", params)
			assert.Equal(t, 1, count(t, j.DB(), "attempt = 1 AND state = 'discarded'"), "River has attempts of its own")
			_, err = j.DB().ExecContext(t.Context(), "DELETE FROM river_job")
			require.NoError(t, err)
		}
	})
}

// What Submit refuses is not stored.
func TestRefusals(t *testing.T) {
	onEach(t, func(t *testing.T, p place) {
		j := open(t, p, newManager(t, upper, llmqueue.WithLimits(llmqueue.TPM(1000))))
		refused := func(want error, r req, opts ...llmriver.SubmitOption) {
			t.Helper()
			resp, err := j.Submit(t.Context(), r, opts...)
			assert.ErrorIs(t, err, want)
			assert.Empty(t, resp.Status)
		}
		refused(llmqueue.ErrModelNotRegistered, req{})
		refused(llmqueue.ErrModelNotRegistered, req{ModelID: "unknown"})
		refused(llmqueue.ErrRequestTooLarge, req{ModelID: model, Estimate: llmqueue.Usage{InputTokens: 5000}})
		refused(llmqueue.ErrInvalidParams, req{ModelID: model, MaxWait: -1})
		refused(llmqueue.ErrInvalidParams, req{ModelID: model, ID: "zero\x00byte"})
		refused(llmqueue.ErrInvalidParams, req{ModelID: model, ID: "x"}, llmriver.Unique())
		_, err := j.Submit(ended(), req{ModelID: model})
		assert.ErrorIs(t, err, llmqueue.ErrCanceled)
		assert.Zero(t, count(t, j.DB(), "true"), "a refused request was stored")
		require.NoError(t, j.Shutdown(t.Context()))
		refused(llmqueue.ErrQueueClosed, req{ModelID: model})
	})
}

// A second job with a chosen id, or with the same content and Unique, is refused, while the
// first waits and when it has ended.
func TestDuplicates(t *testing.T) {
	onEach(t, func(t *testing.T, p place) {
		g := newGate()
		j := open(t, p, newManager(t, g.process))
		post(t, j, req{ID: "a", Params: "x"})
		first := post(t, j, req{Params: "y"}, llmriver.Unique())
		check := func() {
			t.Helper()
			_, err := j.Submit(t.Context(), req{ModelID: model, ID: "a", Params: "other"})
			assert.ErrorIs(t, err, llmqueue.ErrDuplicateRequest)
			_, err = j.Submit(t.Context(), req{ModelID: model, Params: "y"}, llmriver.Unique())
			require.ErrorIs(t, err, llmqueue.ErrDuplicateRequest, "a second identical job was taken")
			assert.Contains(t, err.Error(), first, "the error does not name the job that is there")
		}
		check()
		tenant := post(t, j, req{Params: "y", Tenant: "another"}, llmriver.Unique())
		plain := post(t, j, req{Params: "y"})
		close(g.open)
		for _, id := range []string{"a", first, tenant, plain} {
			assert.Equal(t, llmqueue.StatusCompleted, wait(t, j, id).Status)
		}
		check()
		assert.NoError(t, j.Cancel(t.Context(), model, "a"))
		_, err := j.DB().ExecContext(t.Context(), "UPDATE river_job SET state = 'discarded'")
		require.NoError(t, err)
		check() // as if they had failed
		assert.Equal(t, 4, count(t, j.DB(), "true"))
	})
}

// Any text goes through, also what PostgreSQL's jsonb does not take.
func TestAnyText(t *testing.T) {
	onEach(t, func(t *testing.T, p place) {
		j := open(t, p, newManager(t, func(_ context.Context, r req) (string, error) {
			if strings.HasPrefix(r.Params, "fail") {
				return "", errors.New(r.Params)
			}
			return r.Params, nil
		}))
		for _, text := range []string{"", "\x00", "a\x00b \\u0000", `\ud800`, "{}", `{"llmriver_base64":"x"}`, "日本\U0001F600", strings.Repeat("long ", 100_000)} {
			resp, err := j.Submit(t.Context(), req{ModelID: model, Params: text})
			require.NoError(t, err, "%.20q", text)
			assert.True(t, text == resp.Result)
			again := wait(t, j, resp.RequestID)
			assert.True(t, text == again.Result, "the store changed %.20q to %.20q", text, again.Result)
		}
		resp, err := j.Submit(t.Context(), req{ModelID: model, Params: "fail\x00"})
		require.Error(t, err)
		assert.Equal(t, err.Error(), wait(t, j, resp.RequestID).Err.Error())
	})
}

// A result that does not go into JSON, and params that do not come out of it, end the job
// with an error that says so.
func TestJSONThatDoesNotFit(t *testing.T) {
	onEach(t, func(t *testing.T, p place) {
		m := llmqueue.NewManager[float64, float64]()
		_, err := m.Register("m", func(_ context.Context, r llmqueue.Request[float64]) (float64, error) { return math.Inf(1), nil }, llmqueue.WithUnlimited())
		require.NoError(t, err)
		j, err := llmriver.Open(t.Context(), p.store(), m, quiet())
		require.NoError(t, err)
		_, err = j.Submit(t.Context(), llmqueue.Request[float64]{ModelID: "m", Params: math.NaN()})
		assert.ErrorIs(t, err, llmqueue.ErrInvalidParams)
		resp, err := j.Submit(t.Context(), llmqueue.Request[float64]{ModelID: "m", Params: 1})
		assert.ErrorIs(t, err, llmqueue.ErrInvalidResult)
		assert.Equal(t, llmqueue.StatusFailed, resp.Status)
		resp, err = j.Wait(t.Context(), "m", resp.RequestID)
		assert.ErrorIs(t, err, llmqueue.ErrInvalidResult)
		assert.Equal(t, llmqueue.StatusFailed, resp.Status)

		// A number waits in the store when the program comes to want strings.
		require.NoError(t, m.Shutdown(t.Context()))
		resp, err = j.Submit(t.Context(), llmqueue.Request[float64]{ModelID: "m", Params: 2, NoWait: true})
		require.NoError(t, err)
		require.NoError(t, j.Shutdown(t.Context()))
		m2 := llmqueue.NewManager[string, string]()
		_, err = m2.Register("m", upper, llmqueue.WithUnlimited())
		require.NoError(t, err)
		j2 := open(t, p, m2)
		_, err = j2.Wait(t.Context(), "m", resp.RequestID)
		require.ErrorIs(t, err, llmqueue.ErrInvalidParams)
		assert.Contains(t, err.Error(), "cannot be decoded into string")

		// And a job whose args are none of ours.
		_, err = j2.DB().ExecContext(t.Context(), `UPDATE river_job SET args = '[1]', state = 'available', finalized_at = NULL, metadata = '{}' WHERE attempt = 1 AND state = 'discarded'`)
		require.NoError(t, err)
		eventually(t, "a job with strange args does not end", func() bool { return count(t, j2.DB(), "finalized_at IS NULL") == 0 })
	})
}

// The key is the request's id, the same in every attempt, and empty elsewhere.
func TestKey(t *testing.T) {
	onEach(t, func(t *testing.T, p place) {
		keys := make(chan string, 2)
		j := open(t, p, newManager(t, func(ctx context.Context, r req) (string, error) {
			assert.Equal(t, r.ID, llmriver.Key(ctx))
			keys <- llmriver.Key(ctx)
			if len(keys) == 1 {
				return "", llmqueue.Retryable(errBoom)
			}
			return "", nil
		}, llmqueue.WithUnlimited(), llmqueue.WithRetry(llmqueue.RetryPolicy{BaseDelay: time.Millisecond, MaxDelay: time.Millisecond})))
		resp, err := j.Submit(t.Context(), req{ModelID: model})
		require.NoError(t, err)
		assert.Equal(t, resp.RequestID, <-keys)
		assert.Equal(t, resp.RequestID, <-keys, "the second attempt has another key: a provider would do the work twice")
		assert.Empty(t, llmriver.Key(t.Context()))
	})
}

// SubmitTx is part of the caller's transaction.
func TestSubmitTx(t *testing.T) {
	onEach(t, func(t *testing.T, p place) {
		var runs atomic.Int64
		j := open(t, p, newManager(t, func(ctx context.Context, r req) (string, error) {
			runs.Add(1)
			return upper(ctx, r)
		}))
		_, err := j.DB().ExecContext(t.Context(), "CREATE TABLE orders (id text)")
		require.NoError(t, err)
		ids := make(map[bool]string)
		for _, commit := range []bool{false, true} {
			tx, err := j.DB().BeginTx(t.Context(), nil)
			require.NoError(t, err)
			_, err = tx.ExecContext(t.Context(), "INSERT INTO orders VALUES ('o')")
			require.NoError(t, err)
			resp, err := j.SubmitTx(t.Context(), tx, req{ModelID: model, Params: "in tx"})
			require.NoError(t, err)
			ids[commit] = resp.RequestID
			if commit {
				require.NoError(t, tx.Commit())
			} else {
				require.NoError(t, tx.Rollback())
			}
		}
		assert.Equal(t, "IN TX", wait(t, j, ids[true]).Result)
		assert.EqualValues(t, 1, runs.Load(), "a job of a transaction that was rolled back ran")
		if ids[false] != ids[true] {
			_, err = j.Status(t.Context(), model, ids[false])
			assert.ErrorIs(t, err, llmqueue.ErrRequestNotFound)
		}
	})
}

// A job that ended is gone after the retention, for readers at once and then from the table.
func TestRetention(t *testing.T) {
	onEach(t, func(t *testing.T, p place) {
		m := newManager(t, func(_ context.Context, r req) (string, error) {
			if r.Params == "fail" {
				return "", errBoom
			}
			return r.Params, nil
		})
		j := open(t, p, m, llmriver.WithRetention(time.Hour))
		var ids []string
		for _, params := range []string{"ok", "fail"} {
			resp, _ := j.Submit(t.Context(), req{ModelID: model, Params: params})
			ids = append(ids, resp.RequestID)
		}
		assert.Equal(t, llmqueue.StatusFailed, wait(t, j, ids[1]).Status)
		_, err := j.DB().ExecContext(t.Context(), "UPDATE river_job SET finalized_at = '2020-01-01 00:00:00.000'")
		require.NoError(t, err)
		for _, id := range ids {
			_, err = j.Status(t.Context(), model, id)
			assert.ErrorIs(t, err, llmqueue.ErrRequestNotFound, "job %s outlives its retention", id)
		}
		require.NoError(t, j.Shutdown(t.Context()))
		j = open(t, p, m, llmriver.WithRetention(time.Hour))
		eventually(t, "the rows of expired jobs stay", func() bool { return count(t, j.DB(), "true") == 0 })
	})
}
