package llmriver_test

import (
	"context"
	"crypto/rand"
	"database/sql"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/llmqueue/llmqueue"
	"github.com/llmqueue/llmqueue/llmriver"
)

// The tests run on SQLite and, where there is a server, on PostgreSQL: the one that the
// environment variable LLMQUEUE_TEST_POSTGRES names, else one on the usual local port. Each
// test makes a schema of its own there. LLMQUEUE_TEST_FULL=1 asks for the full sizes of the
// tests with processes.
const full = "LLMQUEUE_TEST_FULL"

func TestMain(m *testing.M) {
	if os.Getenv(childEnv) != "" {
		child()
		return
	}
	os.Exit(m.Run())
}

const model = "openai/gpt-4.1 mini"

type (
	manager = llmqueue.Manager[string, string]
	jobs    = llmriver.Jobs[string, string]
	req     = llmqueue.Request[string]
)

// place is a store to open again and again, as a database URL or a file.
type place struct{ file, url string }

func (p place) store() llmriver.Store {
	if p.url != "" {
		return llmriver.Postgres(p.url)
	}
	return llmriver.SQLite(p.file)
}

// onEach runs a test on both stores.
func onEach(t *testing.T, test func(t *testing.T, p place)) {
	t.Run("SQLite", func(t *testing.T) { test(t, newFile(t)) })
	t.Run("PostgreSQL", func(t *testing.T) { test(t, newSchema(t)) })
}

func newFile(t testing.TB) place { return place{file: filepath.Join(t.TempDir(), "jobs.db")} }

// server finds a PostgreSQL to test on.
var server = sync.OnceValue(func() string {
	urls := []string{os.Getenv("LLMQUEUE_TEST_POSTGRES")}
	if urls[0] == "" {
		urls = nil
		for _, user := range []string{"postgres", "root"} {
			for _, db := range []string{"test", "postgres"} {
				urls = append(urls, "postgres://"+user+"@127.0.0.1:5432/"+db+"?connect_timeout=2")
			}
		}
	}
	for _, u := range urls {
		db, err := sql.Open("pgx", u)
		if err != nil {
			continue
		}
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		err = db.PingContext(ctx)
		cancel()
		_ = db.Close()
		if err == nil {
			return u
		}
	}
	return ""
})

// newSchema makes an empty schema on the server, or skips the test.
func newSchema(t testing.TB) place {
	t.Helper()
	if server() == "" {
		t.Skip("no PostgreSQL: none at LLMQUEUE_TEST_POSTGRES, and none at 127.0.0.1:5432 that lets postgres or root in without a password")
	}
	return schemaOn(t, server())
}

func schemaOn(t testing.TB, server string) place {
	t.Helper()
	name := "llmriver_" + strings.ToLower(rand.Text()[:10])
	db, err := sql.Open("pgx", server)
	require.NoError(t, err)
	_, err = db.ExecContext(t.Context(), "CREATE SCHEMA "+name)
	require.NoError(t, err)
	t.Cleanup(func() {
		_, err := db.ExecContext(context.Background(), "DROP SCHEMA "+name+" CASCADE")
		assert.NoError(t, err)
		assert.NoError(t, db.Close())
	})
	u, err := url.Parse(server)
	require.NoError(t, err)
	q := u.Query()
	q.Set("search_path", name)
	u.RawQuery = q.Encode()
	return place{url: u.String()}
}

// newManager is a manager with one model.
func newManager(t testing.TB, process llmqueue.Processor[string, string], opts ...llmqueue.Option) *manager {
	t.Helper()
	m := llmqueue.NewManager[string, string]()
	if len(opts) == 0 {
		opts = []llmqueue.Option{llmqueue.WithUnlimited()}
	}
	_, err := m.Register(model, process, opts...)
	require.NoError(t, err)
	t.Cleanup(func() { _ = m.Shutdown(ended()) })
	return m
}

// ended is a context whose time is over.
func ended() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}

// open opens jobs that the end of the test shuts down.
func open(t testing.TB, p place, m *manager, opts ...llmriver.Option) *jobs {
	t.Helper()
	j, err := llmriver.Open(t.Context(), p.store(), m, append([]llmriver.Option{quiet(), llmriver.WithLease(time.Second)}, opts...)...)
	require.NoError(t, err)
	t.Cleanup(func() { _ = j.Shutdown(ended()) })
	return j
}

func quiet() llmriver.Option { return llmriver.WithLogger(slog.New(slog.DiscardHandler)) }

// post stores a request that has to be accepted.
func post(t testing.TB, j *jobs, r req, opts ...llmriver.SubmitOption) string {
	t.Helper()
	r.NoWait = true
	if r.ModelID == "" {
		r.ModelID = model
	}
	resp, err := j.Submit(t.Context(), r, opts...)
	require.NoError(t, err)
	require.Equal(t, llmqueue.StatusPending, resp.Status)
	return resp.RequestID
}

// wait waits for the end of a job, whatever it is.
func wait(t testing.TB, j *jobs, id string) llmqueue.Response[string] {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	resp, err := j.Wait(ctx, model, id)
	require.True(t, resp.Status.Final(), "job %s is still %s: %v", id, resp.Status, err)
	assert.Equal(t, resp.Err, err)
	return resp
}

// count asks the database.
func count(t testing.TB, db *sql.DB, where string) (n int) {
	t.Helper()
	require.NoError(t, db.QueryRowContext(t.Context(), "SELECT count(*) FROM river_job WHERE "+where).Scan(&n))
	return n
}

// upper is a processor that answers at once.
func upper(_ context.Context, r req) (string, error) { return strings.ToUpper(r.Params), nil }

// gate is a processor that waits until it is opened, and notes who started.
type gate struct {
	open    chan struct{}
	started chan string
}

func newGate() *gate { return &gate{make(chan struct{}), make(chan string, 10000)} }

func (g *gate) process(ctx context.Context, r req) (string, error) {
	g.started <- r.Params
	select {
	case <-g.open:
		return strings.ToUpper(r.Params), nil
	case <-ctx.Done():
		return "", ctx.Err()
	}
}

// next is who starts next.
func (g *gate) next(t testing.TB) string {
	t.Helper()
	select {
	case s := <-g.started:
		return s
	case <-time.After(time.Minute):
		require.Fail(t, "nothing starts")
		return ""
	}
}

// eventually waits for something that another goroutine or process does.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	require.Eventually(t, ok, 5*time.Minute, 5*time.Millisecond, what)
}

func numbered(n int) string { return fmt.Sprintf("p%05d", n) }
