package llmriver_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/llmqueue/llmqueue"
	"github.com/llmqueue/llmqueue/llmriver"
)

// A process holds exactly as many jobs as Open says, those included that are on their way
// to the line, while many more wait in the store; and it uses all of its slots.
func TestHoldsNoMoreThanItCanStart(t *testing.T) {
	const all = 300
	for name, c := range map[string]struct {
		limits  []llmqueue.Limit
		running int // at once
		held    int // and in line or on the way
	}{
		"concurrent":   {[]llmqueue.Limit{llmqueue.Concurrent(5)}, 5, 5 + 7},
		"per minute":   {[]llmqueue.Limit{llmqueue.RPM(10)}, 10, 20 + 7},
		"without any ": {nil, 256, 256 + 7},
	} {
		t.Run(name, func(t *testing.T) {
			onEach(t, func(t *testing.T, p place) {
				g := newGate()
				opts := []llmqueue.Option{llmqueue.WithUnlimited()}
				if c.limits != nil {
					opts = []llmqueue.Option{llmqueue.WithLimits(c.limits...)}
				}
				m := newManager(t, g.process, opts...)
				j := open(t, p, m, llmriver.WithAhead(7))
				var posts sync.WaitGroup
				for i := range all {
					posts.Go(func() { post(t, j, req{Params: numbered(i)}) })
				}
				posts.Wait()
				for range c.running {
					g.next(t)
				}
				eventually(t, "the process does not fetch as far ahead as it says", func() bool {
					n := count(t, j.DB(), "state = 'running'")
					require.LessOrEqual(t, n, c.held, "the process holds more jobs than it says, away from others")
					return n == c.held
				})
				// Several more fetches happen; none takes more.
				for range 20 {
					post(t, j, req{Params: "more"})
					require.LessOrEqual(t, count(t, j.DB(), "state = 'running'"), c.held)
				}
				q, _ := m.Queue(model)
				assert.LessOrEqual(t, q.Info().Processing+q.Info().Pending, c.held)
				if c.limits == nil || c.limits[0].Kind == llmqueue.KindConcurrent {
					close(g.open)
					eventually(t, "not all jobs end", func() bool {
						require.LessOrEqual(t, count(t, j.DB(), "state = 'running'"), c.held)
						return count(t, j.DB(), "state = 'completed'") == all+20
					})
				}
			})
		})
	}
}

// The urgent go first: exactly within what is fetched, by River's four steps in the store.
func TestPriorities(t *testing.T) {
	onEach(t, func(t *testing.T, p place) {
		g := newGate()
		m := newManager(t, g.process, llmqueue.WithLimits(llmqueue.Concurrent(1)))
		q, _ := m.Queue(model)
		q.Pause()
		j := open(t, p, m, llmriver.WithAhead(100))
		order := []int{9, 5, 2, 1, 0, -1, -7}
		for _, i := range rand.Perm(len(order)) {
			post(t, j, req{Params: numbered(order[i] + 100), Priority: order[i]})
		}
		eventually(t, "the jobs do not come into line", func() bool { return q.Len() == len(order) })
		q.Resume()
		close(g.open)
		for _, want := range order {
			assert.Equal(t, numbered(want+100), g.next(t), "a job starts before a more urgent one")
		}
	})
}

func TestStorePriorities(t *testing.T) {
	onEach(t, func(t *testing.T, p place) {
		g := newGate()
		m := newManager(t, g.process, llmqueue.WithLimits(llmqueue.Concurrent(1)))
		j := open(t, p, m, llmriver.WithAhead(1))
		post(t, j, req{Params: "first"})
		g.next(t)
		post(t, j, req{Params: "second"}) // the one ahead
		eventually(t, "nothing is fetched ahead", func() bool { return count(t, j.DB(), "state = 'running'") == 2 })
		for _, priority := range []int{-3, 0, 1, 40} {
			post(t, j, req{Params: numbered(priority + 100), Priority: priority})
		}
		close(g.open)
		for _, want := range []string{"second", numbered(140), numbered(101), numbered(100), numbered(97)} {
			assert.Equal(t, want, g.next(t))
		}
	})
}

// Cancel reaches a job in the store, in line and at work, here and in another process; who
// waits is told.
func TestCancel(t *testing.T) {
	onEach(t, func(t *testing.T, p place) {
		g := newGate()
		j := open(t, p, newManager(t, g.process, llmqueue.WithLimits(llmqueue.Concurrent(1))), llmriver.WithAhead(1))
		var ids []string
		for _, params := range []string{"at work", "in line", "in store"} {
			id := post(t, j, req{Params: params})
			ids = append(ids, id)
			switch params {
			case "at work":
				g.next(t)
			case "in line":
				eventually(t, "nothing is fetched ahead", func() bool { return count(t, j.DB(), "state = 'running'") == 2 })
			}
		}
		resp, err := j.Status(t.Context(), model, ids[0])
		require.NoError(t, err)
		assert.Equal(t, llmqueue.StatusProcessing, resp.Status)
		eventually(t, "the one in line is not there", func() bool {
			resp, err = j.Status(t.Context(), model, ids[1])
			require.NoError(t, err)
			return resp.Status == llmqueue.StatusPending && resp.Position == 1
		})
		for _, id := range slices.Backward(ids) {
			told := make(chan llmqueue.Response[string], 1)
			ready := make(chan struct{})
			go func() {
				close(ready)
				resp, _ := j.Wait(context.WithoutCancel(t.Context()), model, id)
				told <- resp
			}()
			<-ready
			require.NoError(t, j.Cancel(t.Context(), model, id))
			resp := <-told
			assert.Equal(t, llmqueue.StatusCanceled, resp.Status)
			assert.ErrorIs(t, resp.Err, llmqueue.ErrCanceled)
			assert.Equal(t, llmqueue.StatusCanceled, wait(t, j, id).Status)
			assert.NoError(t, j.Cancel(t.Context(), model, id), "canceling again")
		}
		assert.Equal(t, 3, count(t, j.DB(), "state = 'cancelled'"))

		// Who submits and goes away.
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() {
			_, err := j.Submit(ctx, req{ModelID: model, Params: "gone"})
			done <- err
		}()
		assert.Equal(t, "gone", g.next(t))
		cancel()
		assert.ErrorIs(t, <-done, context.Canceled)
		eventually(t, "the job of who has gone stays", func() bool { return count(t, j.DB(), "state = 'cancelled'") == 4 })
	})
}

// Shutdown lets run what runs, and the rest keeps its place for the next start, without an
// attempt counted, those included that wait for a retry. Faults that this test was seen to
// catch: jobs handed back to the end of the line, and fetched jobs in another order than the
// store's.
func TestShutdownLeavesTheRest(t *testing.T) {
	onEach(t, func(t *testing.T, p place) {
		g := newGate()
		process := func(ctx context.Context, r req) (string, error) {
			if r.Params == "retry" {
				g.started <- r.Params
				return "", llmqueue.Retryable(errBoom)
			}
			return g.process(ctx, r)
		}
		m := newManager(t, process, llmqueue.WithLimits(llmqueue.Concurrent(1)), llmqueue.WithRetry(llmqueue.RetryPolicy{BaseDelay: time.Hour, MaxDelay: time.Hour}))
		j := open(t, p, m)
		retried := post(t, j, req{Params: "retry"})
		assert.Equal(t, "retry", g.next(t))
		running := post(t, j, req{Params: "running"})
		assert.Equal(t, "running", g.next(t))
		var rest []string
		for i := range 30 {
			rest = append(rest, post(t, j, req{Params: numbered(i)}))
		}
		eventually(t, "nothing is fetched ahead", func() bool { return count(t, j.DB(), "state = 'running'") > 10 })
		stopped := make(chan error)
		go func() { stopped <- j.Shutdown(t.Context()) }()
		q, _ := m.Queue(model)
		eventually(t, "what waits in line is not given back", func() bool { return q.Len() == 0 })
		close(g.open)
		require.NoError(t, <-stopped)
		assert.Empty(t, g.started, "jobs started during the shutdown")

		g = newGate()
		j = open(t, p, newManager(t, func(ctx context.Context, r req) (string, error) {
			g.started <- r.Params
			return r.Params, nil
		}, llmqueue.WithLimits(llmqueue.Concurrent(1))))
		assert.Equal(t, "RUNNING", wait(t, j, running).Result, "what ran did not get to its end")
		assert.Equal(t, "retry", g.next(t), "the oldest lost its place")
		for i := range rest {
			assert.Equal(t, numbered(i), g.next(t), "a job lost its place by the shutdown")
		}
		for _, id := range append(rest, retried) {
			assert.Equal(t, llmqueue.StatusCompleted, wait(t, j, id).Status)
		}
		assert.Zero(t, count(t, j.DB(), "attempt <> 1"), "the shutdown counts as an attempt")
	})
}

// When the time for Shutdown is over, what runs is cut off and runs again.
func TestShutdownCutsOff(t *testing.T) {
	onEach(t, func(t *testing.T, p place) {
		g := newGate()
		j := open(t, p, newManager(t, g.process))
		id := post(t, j, req{Params: "long"})
		g.next(t)
		waiter := make(chan error)
		go func() {
			_, err := j.Wait(context.WithoutCancel(t.Context()), model, id)
			waiter <- err
		}()
		assert.ErrorIs(t, j.Shutdown(ended()), context.Canceled)
		assert.ErrorIs(t, <-waiter, llmqueue.ErrQueueClosed)
		assert.ErrorIs(t, j.Shutdown(t.Context()), context.Canceled, "again")
		j = open(t, p, newManager(t, upper))
		assert.Equal(t, "LONG", wait(t, j, id).Result, "a job that was cut off is lost")
	})
}

// A manager that is shut down first fails no job.
func TestManagerShutDownFirst(t *testing.T) {
	onEach(t, func(t *testing.T, p place) {
		g := newGate()
		m := newManager(t, g.process, llmqueue.WithLimits(llmqueue.Concurrent(1)))
		j := open(t, p, m)
		ids := []string{post(t, j, req{Params: "a"}), post(t, j, req{Params: "b"})}
		g.next(t)
		require.Error(t, m.Shutdown(ended()))
		ids = append(ids, post(t, j, req{Params: "c"}))
		require.NoError(t, j.Shutdown(t.Context()))
		j = open(t, p, newManager(t, upper))
		for i, id := range ids {
			assert.Equal(t, string(rune('A'+i)), wait(t, j, id).Result)
		}
	})
}

// MaxWait counts from Submit, over restarts.
func TestMaxWait(t *testing.T) {
	onEach(t, func(t *testing.T, p place) {
		m := newManager(t, upper)
		q, _ := m.Queue(model)
		q.Pause()
		j := open(t, p, m)
		id := post(t, j, req{MaxWait: 50 * time.Millisecond})
		assert.ErrorIs(t, wait(t, j, id).Err, llmqueue.ErrQueueTimeout)
		id = post(t, j, req{MaxWait: time.Hour})
		require.NoError(t, j.Shutdown(t.Context()))
		j = open(t, p, newManager(t, func(context.Context, req) (string, error) { return "", errBoom }))
		assert.ErrorContains(t, wait(t, j, id).Err, "boom", "a job whose wait is not over did not run")
		id = post(t, j, req{MaxWait: time.Nanosecond})
		assert.ErrorIs(t, wait(t, j, id).Err, llmqueue.ErrQueueTimeout)
	})
}

// A breaker's and a pause's wait are waits like any other: no connection is held meanwhile,
// and no job fails.
func TestWaitsHoldNoConnection(t *testing.T) {
	onEach(t, func(t *testing.T, p place) {
		m := newManager(t, upper, llmqueue.WithLimits(llmqueue.Concurrent(200)))
		q, _ := m.Queue(model)
		q.Pause()
		j := open(t, p, m, llmriver.WithAhead(100))
		for i := range 200 {
			post(t, j, req{Params: numbered(i)})
		}
		eventually(t, "the jobs do not come into line", func() bool { return q.Len() == 200 })
		eventually(t, "connections are held while 200 jobs wait", func() bool { return j.DB().Stats().InUse == 0 })
		q.Resume()
		eventually(t, "not all jobs end", func() bool { return count(t, j.DB(), "state = 'completed'") == 200 })
		assert.Zero(t, count(t, j.DB(), "attempt <> 1"))
	})
}

// A job may wait and run for longer than a lease: River's timeout of a minute and its rescue
// after an hour would hit it, if they were on. Their times are shortened by moving the job's
// clock back.
func TestLongWait(t *testing.T) {
	onEach(t, func(t *testing.T, p place) {
		g := newGate()
		j := open(t, p, newManager(t, g.process, llmqueue.WithLimits(llmqueue.Concurrent(1))))
		ids := []string{post(t, j, req{Params: "runs"}), post(t, j, req{Params: "waits"})}
		g.next(t)
		eventually(t, "the second is not fetched", func() bool { return count(t, j.DB(), "state = 'running'") == 2 })
		_, err := j.DB().ExecContext(t.Context(), "UPDATE river_job SET attempted_at = '2020-01-01 00:00:00.000'")
		require.NoError(t, err)
		other := place{url: p.url}
		if p.url != "" { // another process, which would take jobs of the dead
			open(t, other, newManager(t, g.process))
		}
		time.Sleep(2500 * time.Millisecond) // more than two leases; River's rescuer has run at its start
		assert.Empty(t, g.started, "a job that waits or runs was taken for stuck, and runs twice")
		close(g.open)
		for _, id := range ids {
			assert.Equal(t, llmqueue.StatusCompleted, wait(t, j, id).Status)
		}
		assert.Zero(t, count(t, j.DB(), "attempt <> 1"))
	})
}

// A model that is registered later is served from the first Submit, or from Serve on.
func TestServe(t *testing.T) {
	onEach(t, func(t *testing.T, p place) {
		m := newManager(t, upper)
		j := open(t, p, m)
		assert.ErrorIs(t, j.Serve("later"), llmqueue.ErrModelNotRegistered)
		_, err := m.Register("later", upper, llmqueue.WithUnlimited())
		require.NoError(t, err)
		require.NoError(t, j.Serve("later"))
		require.NoError(t, j.Serve("later"))
		resp, err := j.Submit(t.Context(), req{ModelID: "later", Params: "x"})
		require.NoError(t, err)
		assert.Equal(t, "X", resp.Result)
	})
}

// Processes that only submit wait for what others work.
func TestSubmitOnly(t *testing.T) {
	p := newSchema(t)
	web, err := llmriver.SubmitOnly[string, string](t.Context(), p.store(), quiet())
	require.NoError(t, err)
	id := post(t, web, req{Params: "before"})
	worker := open(t, p, newManager(t, upper))
	assert.Equal(t, "BEFORE", wait(t, web, id).Result)
	resp, err := web.Submit(t.Context(), req{ModelID: model, Params: "now"})
	require.NoError(t, err)
	assert.Equal(t, "NOW", resp.Result)
	assert.Error(t, web.Serve(model))
	waiter := make(chan error)
	require.NoError(t, worker.Shutdown(t.Context()))
	go func() {
		_, err := web.Submit(context.WithoutCancel(t.Context()), req{ModelID: model, Params: "later"})
		waiter <- err
	}()
	eventually(t, "the job is not stored", func() bool { return count(t, web.DB(), "state = 'available'") == 1 })
	require.NoError(t, web.Shutdown(t.Context()))
	assert.ErrorIs(t, <-waiter, llmqueue.ErrQueueClosed)
}

// Cancel reaches a job that another process works.
func TestCancelElsewhere(t *testing.T) {
	p := newSchema(t)
	g := newGate()
	open(t, p, newManager(t, g.process))
	web, err := llmriver.SubmitOnly[string, string](t.Context(), p.store(), quiet())
	require.NoError(t, err)
	t.Cleanup(func() { _ = web.Shutdown(ended()) })
	id := post(t, web, req{Params: "x"})
	g.next(t)
	resp, err := web.Status(t.Context(), model, id)
	require.NoError(t, err)
	assert.Equal(t, llmqueue.StatusProcessing, resp.Status)
	require.NoError(t, web.Cancel(t.Context(), model, id))
	assert.Equal(t, llmqueue.StatusCanceled, wait(t, web, id).Status)
}

// A second Open of an SQLite file is refused, and the first goes on.
func TestOneProcessPerFile(t *testing.T) {
	p := newFile(t)
	j := open(t, p, newManager(t, upper))
	_, err := llmriver.Open(t.Context(), p.store(), newManager(t, upper), quiet())
	require.ErrorIs(t, err, llmriver.ErrInUse)
	assert.Contains(t, err.Error(), p.file)
	resp, err := j.Submit(t.Context(), req{ModelID: model, Params: "x"})
	require.NoError(t, err)
	assert.Equal(t, "X", resp.Result)
	require.NoError(t, j.Shutdown(t.Context()))
	open(t, p, newManager(t, upper))
}

// Tables are made, or only checked.
func TestMigrations(t *testing.T) {
	onEach(t, func(t *testing.T, p place) {
		m := newManager(t, upper)
		_, err := llmriver.Open(t.Context(), p.store(), m, quiet(), llmriver.WithoutMigrations())
		require.ErrorContains(t, err, "not up to date")
		// Several processes start on an empty database at once.
		starts := 1
		if p.url != "" {
			starts = 4
		}
		var all sync.WaitGroup
		for range starts {
			all.Go(func() {
				j, err := llmriver.Open(t.Context(), p.store(), m, quiet())
				if assert.NoError(t, err) {
					assert.NoError(t, j.Shutdown(t.Context()))
				}
			})
		}
		all.Wait()
		open(t, p, m, llmriver.WithoutMigrations())
	})
}

// What is wrong with a configuration is said at once.
func TestConfigurationErrors(t *testing.T) {
	m := newManager(t, upper)
	file := llmriver.SQLite(filepath.Join(t.TempDir(), "x.db"))
	for name, f := range map[string]func() error{
		"no manager":   func() error { _, err := llmriver.Open[string, string](t.Context(), file, nil); return err },
		"no store":     func() error { _, err := llmriver.Open(t.Context(), llmriver.Store{}, m); return err },
		"no pool":      func() error { _, err := llmriver.Open(t.Context(), llmriver.PostgresPool(nil), m); return err },
		"memory":       func() error { _, err := llmriver.Open(t.Context(), llmriver.SQLite(":memory:"), m); return err },
		"no folder":    func() error { _, err := llmriver.Open(t.Context(), llmriver.SQLite("/no/such/x.db"), m); return err },
		"a bad option": func() error { _, err := llmriver.Open(t.Context(), file, m, llmriver.WithAhead(0)); return err },
		"retention":    func() error { _, err := llmriver.Open(t.Context(), file, m, llmriver.WithRetention(0)); return err },
		"lease":        func() error { _, err := llmriver.Open(t.Context(), file, m, llmriver.WithLease(1)); return err },
		"poll":         func() error { _, err := llmriver.Open(t.Context(), file, m, llmriver.WithPollInterval(0)); return err },
	} {
		err := f()
		require.ErrorIs(t, err, llmqueue.ErrInvalidConfiguration, name)
		assert.NotContains(t, err.Error(), "\n")
	}
	_, err := llmriver.Open(t.Context(), file, llmqueue.NewManager[string, string]())
	assert.ErrorIs(t, err, llmqueue.ErrModelNotRegistered)
	empty := filepath.Join(t.TempDir(), "no.db")
	require.NoError(t, os.WriteFile(empty, []byte("this is no database file, but some text"), 0o600))
	_, err = llmriver.Open(t.Context(), llmriver.SQLite(empty), m)
	assert.ErrorContains(t, err, "not a database")
}

// No error and no log line shows the database's password.
func TestPasswordIsNotShown(t *testing.T) {
	const secret = "s3cr3t-pa55"
	var log bytes.Buffer
	m := newManager(t, upper)
	for _, url := range []string{
		"postgres://u:" + secret + "@127.0.0.1:1/db?connect_timeout=1",
		"postgres://u:" + secret + "@127.0.0.1:notaport/db",
		"postgres://u:" + secret + "@[::1/db",
		"postgres://u:" + secret + "%zz@127.0.0.1/db",
		"postgres://u@127.0.0.1:1/db?password=" + secret + "&sslmode=nonsense",
		"host=127.0.0.1 port=1 user=u password=" + secret + " sslmode=broken",
		"host=127.0.0.1 port=1 connect_timeout=1 user=u password=" + secret,
		secret,
	} {
		_, err := llmriver.Open(t.Context(), llmriver.Postgres(url), m, llmriver.WithLogger(slog.New(slog.NewTextHandler(&log, nil))))
		require.Error(t, err)
		for e := err; e != nil; e = errors.Unwrap(e) {
			assert.NotContains(t, e.Error(), secret)
		}
	}
	assert.NotContains(t, log.String(), secret)
	if server() == "" {
		return
	}
	// And a server that does not take the user.
	url := strings.NewReplacer("postgres@", "nobody:"+secret+"@", "root@", "nobody:"+secret+"@").Replace(server())
	_, err := llmriver.Open(t.Context(), llmriver.Postgres(url), m)
	if err != nil {
		assert.NotContains(t, err.Error(), secret)
	}
}
