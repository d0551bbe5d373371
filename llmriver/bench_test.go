package llmriver_test

import (
	"context"
	"database/sql"
	"math"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/riverqueue/river"
	"github.com/stretchr/testify/require"

	"github.com/llmqueue/llmqueue"
	"github.com/llmqueue/llmqueue/llmriver"
)

// BenchmarkWork drains jobs that were stored before, with a processor that does nothing: as
// jobs of this package, and as plain River jobs on the same tables and driver with the same
// number of workers.
//
//	go test -run '^$' -bench Work -benchtime 10000x .
func BenchmarkWork(b *testing.B) {
	for name, newPlace := range stores {
		b.Run(name+"/llmriver", func(b *testing.B) {
			p := newPlace(b)
			var left atomic.Int64
			left.Store(int64(b.N))
			done := make(chan struct{})
			m := newManager(b, func(context.Context, req) (string, error) {
				if left.Add(-1) == 0 {
					close(done)
				}
				return "", nil
			})
			store(b, p, b.N)
			b.ResetTimer()
			j := open(b, p, m)
			<-done
			require.NoError(b, j.Shutdown(b.Context())) // all ends are stored
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "jobs/s")
		})
		b.Run(name+"/River", func(b *testing.B) {
			p := newPlace(b)
			j, err := llmriver.SubmitOnly[string, string](b.Context(), p.store(), quiet())
			require.NoError(b, err)
			defer j.Shutdown(b.Context()) //nolint:errcheck // it has nothing to do
			var left atomic.Int64
			left.Store(int64(b.N))
			done := make(chan struct{})
			workers := river.NewWorkers()
			river.AddWorker(workers, river.WorkFunc(func(context.Context, *river.Job[plain]) error {
				if left.Add(-1) == 0 {
					close(done)
				}
				return nil
			}))
			client, err := river.NewClient(j.River().Driver(), &river.Config{
				Workers: workers, FetchCooldown: 10 * time.Millisecond,
				Queues: map[string]river.QueueConfig{"plain": {MaxWorkers: 272}},
			})
			require.NoError(b, err)
			for from := 0; from < b.N; from += 1000 {
				var params []river.InsertManyParams
				for range min(1000, b.N-from) {
					params = append(params, river.InsertManyParams{Args: plain{"some text"}, InsertOpts: &river.InsertOpts{Queue: "plain"}})
				}
				_, err := client.InsertMany(b.Context(), params)
				require.NoError(b, err)
			}
			b.ResetTimer()
			require.NoError(b, client.Start(b.Context()))
			<-done
			require.NoError(b, client.Stop(b.Context()))
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "jobs/s")
		})
	}
}

var stores = map[string]func(testing.TB) place{"SQLite": newFile, "PostgreSQL": newSchema}

type plain struct {
	Text string `json:"text"`
}

func (plain) Kind() string { return "plain" }

// store stores n jobs.
func store(b testing.TB, p place, n int) {
	j, err := llmriver.SubmitOnly[string, string](b.Context(), p.store(), quiet())
	require.NoError(b, err)
	submit(b, j, n, 100)
	require.NoError(b, j.Shutdown(b.Context()))
}

// submit stores n jobs from several goroutines.
func submit(b testing.TB, j *jobs, n, callers int) {
	var next atomic.Int64
	var all sync.WaitGroup
	for range callers {
		all.Go(func() {
			for next.Add(1) <= int64(n) {
				if _, err := j.Submit(b.Context(), req{ModelID: model, Params: "some text", NoWait: true}); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	all.Wait()
}

// BenchmarkSubmit stores jobs from one caller and from a hundred.
//
//	go test -run '^$' -bench Submit -benchtime 5000x .
func BenchmarkSubmit(b *testing.B) {
	for name, newPlace := range stores {
		for callers, text := range map[int]string{1: "1 caller", 100: "100 callers"} {
			b.Run(name+"/"+text, func(b *testing.B) {
				j, err := llmriver.SubmitOnly[string, string](b.Context(), newPlace(b).store(), quiet())
				require.NoError(b, err)
				b.ResetTimer()
				submit(b, j, b.N, callers)
				b.StopTimer()
				b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "jobs/s")
				require.NoError(b, j.Shutdown(b.Context()))
			})
		}
	}
}

// BenchmarkRoundTrip is Submit and wait, one after the other.
func BenchmarkRoundTrip(b *testing.B) {
	for name, newPlace := range stores {
		b.Run(name, func(b *testing.B) {
			j := open(b, newPlace(b), newManager(b, upper))
			for b.Loop() {
				_, err := j.Submit(b.Context(), req{ModelID: model, Params: "some text"})
				require.NoError(b, err)
			}
		})
	}
}

// TestCost prints what a job costs PostgreSQL in transactions and bytes, and what a process
// costs that has nothing to do, for the guide. Only with LLMQUEUE_TEST_FULL=1: it takes a
// minute and asserts nothing.
func TestCost(t *testing.T) {
	if os.Getenv(full) == "" {
		t.Skip("it measures for the guide, with " + full + "=1")
	}
	c := newCluster(t)
	p := schemaOn(t, c.url)
	db, err := sql.Open("pgx", p.url)
	require.NoError(t, err)
	defer db.Close()
	stat := func(query string) (x float64) {
		time.Sleep(1500 * time.Millisecond) // the server's statistics lag by up to a second
		require.NoError(t, db.QueryRowContext(context.WithoutCancel(t.Context()), query).Scan(&x))
		return x
	}
	commits := func() float64 {
		return stat("SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = current_database()")
	}
	wal := func() float64 { return stat("SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')") }
	size := func() float64 { return stat("SELECT pg_total_relation_size('river_job')") }

	const n = 10_000
	web, err := llmriver.SubmitOnly[string, string](t.Context(), p.store(), quiet())
	require.NoError(t, err)
	before, beforeWAL, beforeSize := commits(), wal(), size()
	from := time.Now()
	submit(t, web, n, 100)
	took := time.Since(from)
	submitted := commits()
	t.Logf("submit, 100 callers: %.0f jobs/s, %.3f transactions, %.0f bytes of table and indexes, %.0f bytes of WAL per job",
		n/took.Seconds(), (submitted-before)/n, (size()-beforeSize)/n, (wal()-beforeWAL)/n)

	m := newManager(t, upper)
	before, beforeWAL = commits(), wal()
	from = time.Now()
	j, err := llmriver.Open(t.Context(), p.store(), m, quiet())
	require.NoError(t, err)
	for {
		var left int
		require.NoError(t, db.QueryRowContext(t.Context(), "SELECT count(*) FROM river_job WHERE finalized_at IS NULL").Scan(&left))
		if left == 0 {
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	took = time.Since(from)
	t.Logf("work: %.0f jobs/s, %.3f transactions, %.0f bytes of table and indexes in all, %.0f bytes of WAL per job",
		n/took.Seconds(), (commits()-before)/n, (size()-beforeSize)/n, (wal()-beforeWAL)/n)

	idle := func(what string) {
		const seconds = 20
		before, from := commits(), time.Now()
		time.Sleep(seconds * time.Second)
		after := commits()
		t.Logf("idle, %s: %.1f transactions/s", what, math.Max(0, (after-before-1)/time.Since(from).Seconds()))
	}
	idle("1 process, 1 model")
	for _, more := range []string{"b", "c", "d", "e"} {
		_, err := m.Register(more, upper, llmqueue.WithUnlimited())
		require.NoError(t, err)
		require.NoError(t, j.Serve(more))
	}
	idle("1 process, 5 models")
	require.NoError(t, j.Shutdown(t.Context()))
	idle("1 process that only submits")
	require.NoError(t, web.Shutdown(t.Context()))
}
