package llmriver

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/riverqueue/river/riverdriver/riverdatabasesql"
)

// Postgres keeps jobs in a PostgreSQL database, version 14 or later, that any number of
// processes share. The URL is what pgx reads, postgres://user@host:5432/database; the
// password may stand in PGPASSWORD or a passfile, search_path chooses the schema, and
// pool_max_conns bounds the connections (it defaults to 4, or the number of CPUs), besides
// one that listens. Behind PgBouncer the listening one needs session pooling: see
// PostgresPool.
func Postgres(url string) Store {
	return Store{func(ctx context.Context) (*database, error) {
		cfg, err := pgxpool.ParseConfig(url)
		if err != nil {
			// Not err: it may show parts of the URL.
			return nil, invalid("Postgres: the URL cannot be read, give one like postgres://user@host:5432/database")
		}
		db := stdlib.OpenDB(*cfg.ConnConfig)
		db.SetMaxOpenConns(int(cfg.MaxConns))
		db.SetMaxIdleConns(int(cfg.MaxConns))
		db.SetConnMaxLifetime(cfg.MaxConnLifetime)
		listen := cfg.Copy()
		listen.MinConns, listen.MinIdleConns, listen.MaxConns = 0, 0, 1
		pool, err := pgxpool.NewWithConfig(context.WithoutCancel(ctx), listen)
		if err != nil {
			_ = db.Close()
			return nil, fmt.Errorf("llmriver: %w", err)
		}
		return openPostgres(ctx, db, pool, func() {
			_ = db.Close()
			pool.Close()
		})
	}}
}

// PostgresPool is Postgres on a pool of yours, which Shutdown does not close. One of its
// connections is kept for listening.
func PostgresPool(pool *pgxpool.Pool) Store {
	return Store{func(ctx context.Context) (*database, error) {
		if pool == nil {
			return nil, invalid("PostgresPool got nil")
		}
		db := stdlib.OpenDBFromPool(pool)
		return openPostgres(ctx, db, pool, func() { _ = db.Close() })
	}}
}

func openPostgres(ctx context.Context, db *sql.DB, pool *pgxpool.Pool, close func()) (*database, error) {
	if err := db.PingContext(ctx); err != nil {
		close()
		return nil, fmt.Errorf("llmriver: PostgreSQL cannot be reached: %w", err)
	}
	driver := riverdatabasesql.NewWithPgxListener(db, pool)
	return &database{db: db, driver: driver, dialect: postgresDialect{}, close: close}, nil
}

type postgresDialect struct{}

func (postgresDialect) leases() bool { return true }

// migrationLock is a number of our own for pg_advisory_lock.
const migrationLock = 0x6c6c6d7269766572

func (postgresDialect) locked(ctx context.Context, db *sql.DB, f func() error) error {
	conn, err := db.Conn(ctx)
	if err != nil {
		return fmt.Errorf("llmriver: %w", err)
	}
	defer conn.Close()
	if _, err := conn.ExecContext(ctx, "SELECT pg_advisory_lock($1)", int64(migrationLock)); err != nil {
		return fmt.Errorf("llmriver: waiting for another process that migrates: %w", err)
	}
	defer conn.ExecContext(context.WithoutCancel(ctx), "SELECT pg_advisory_unlock($1)", int64(migrationLock)) //nolint:errcheck // the connection's end unlocks too
	return f()
}

func (postgresDialect) prepare(ctx context.Context, db *sql.DB, checkOnly bool) error {
	if checkOnly {
		if _, err := db.ExecContext(ctx, "SELECT id, expires_at FROM llmriver_process LIMIT 0"); err != nil {
			return fmt.Errorf("llmriver: the table llmriver_process is missing (%w): Open once without WithoutMigrations, or run: %s", err, processTable)
		}
		return nil
	}
	if _, err := db.ExecContext(ctx, processTable); err != nil {
		return fmt.Errorf("llmriver: making the table llmriver_process: %w", err)
	}
	return nil
}

const processTable = "CREATE TABLE IF NOT EXISTS llmriver_process (id text PRIMARY KEY, expires_at timestamptz NOT NULL)"

func (postgresDialect) finish(ctx context.Context, db *sql.DB, ends []*ending) (map[int64]bool, error) {
	ids, states := make([]int64, len(ends)), make([]string, len(ends))
	outputs, failures := make([]string, len(ends)), make([]*string, len(ends))
	for i, e := range ends {
		ids[i], states[i], outputs[i], failures[i] = e.jobID, e.state, string(e.output), e.failure
	}
	rows, err := db.QueryContext(ctx, `
		UPDATE river_job AS j SET
			state = e.state::river_job_state,
			finalized_at = now(),
			metadata = j.metadata || jsonb_build_object('output', e.output::jsonb),
			errors = CASE WHEN e.failure IS NULL THEN j.errors ELSE array_append(j.errors, e.failure::jsonb) END
		FROM unnest($1::bigint[], $2::text[], $3::text[], $4::text[]) AS e (id, state, output, failure)
		WHERE j.id = e.id AND j.finalized_at IS NULL
		RETURNING j.id, true`, ids, states, outputs, failures)
	return scanEnded(rows, err)
}

// refused: class 22 is "data exception", 54 "program limit exceeded".
func (postgresDialect) refused(err error) bool {
	e := (*pgconn.PgError)(nil)
	return errors.As(err, &e) && len(e.Code) == 5 && (e.Code[:2] == "22" || e.Code[:2] == "54")
}

func (postgresDialect) find(ctx context.Context, db *sql.DB, queue, id string) (jobID int64, err error) {
	err = db.QueryRowContext(ctx, `
		SELECT id FROM river_job
		WHERE args @> jsonb_build_object('id', $2::text, 'chosen', true) AND queue = $1
		ORDER BY id DESC LIMIT 1`, queue, id).Scan(&jobID)
	if errors.Is(err, sql.ErrNoRows) {
		return 0, nil
	}
	return jobID, err
}

func (postgresDialect) ended(ctx context.Context, db *sql.DB, ids []int64) (map[int64]bool, error) {
	return scanEnded(db.QueryContext(ctx, "SELECT id, finalized_at IS NOT NULL FROM river_job WHERE id = ANY($1)", ids))
}

func (postgresDialect) restore(ctx context.Context, db *sql.DB, ids []int64) error {
	_, err := db.ExecContext(ctx, "UPDATE river_job SET scheduled_at = created_at WHERE state = 'available' AND id = ANY($1)", ids)
	return err
}

// available gives a running job back, or ends it when it was to be canceled. The job keeps
// its place: its time stays.
const available = `
	state = CASE WHEN metadata ? 'cancel_attempted_at' THEN 'cancelled' ELSE 'available' END::river_job_state,
	finalized_at = CASE WHEN metadata ? 'cancel_attempted_at' THEN now() END`

// orphans makes jobs available again whose process is not on the list.
const orphans = `
	UPDATE river_job SET ` + available + `
	WHERE state = 'running' AND kind = '` + kind + `'
		AND NOT EXISTS (SELECT FROM llmriver_process p WHERE p.id = attempted_by[array_upper(attempted_by, 1)])`

// adopt puts this process on the list, before it fetches anything. It takes no jobs of
// processes on the list, however long they were silent: after an outage of the database
// all of them were.
func (d postgresDialect) adopt(ctx context.Context, db *sql.DB, self string, lease float64) (int64, error) {
	if _, err := d.signal(ctx, db, self, lease, false); err != nil {
		return 0, err
	}
	r, err := db.ExecContext(ctx, orphans)
	if err != nil {
		return 0, err
	}
	return r.RowsAffected()
}

func (postgresDialect) signal(ctx context.Context, db *sql.DB, self string, lease float64, sweep bool) (int64, error) {
	if _, err := db.ExecContext(ctx, `
		INSERT INTO llmriver_process (id, expires_at) VALUES ($1, now() + make_interval(secs => $2))
		ON CONFLICT (id) DO UPDATE SET expires_at = excluded.expires_at`, self, lease); err != nil || !sweep {
		return 0, err
	}
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return 0, err
	}
	defer tx.Rollback() //nolint:errcheck // after Commit it does nothing
	// In one transaction: a process is off the list exactly when its jobs are free.
	dead, err := tx.ExecContext(ctx, "DELETE FROM llmriver_process WHERE expires_at < now()")
	if err != nil {
		return 0, err
	}
	if n, err := dead.RowsAffected(); err != nil || n == 0 {
		return 0, err
	}
	freed, err := tx.ExecContext(ctx, orphans)
	if err != nil {
		return 0, err
	}
	n, err := freed.RowsAffected()
	if err != nil {
		return 0, err
	}
	return n, tx.Commit()
}

func (postgresDialect) mine(ctx context.Context, db *sql.DB, self string, lease float64) (ids []int64, err error) {
	jobs, err := scanEnded(db.QueryContext(ctx, `
		SELECT id, false FROM river_job
		WHERE state = 'running' AND kind = '`+kind+`' AND attempted_by[array_upper(attempted_by, 1)] = $1
			AND attempted_at < now() - make_interval(secs => $2)`, self, lease))
	for id := range jobs {
		ids = append(ids, id)
	}
	return ids, err
}

func (postgresDialect) free(ctx context.Context, db *sql.DB, self string, ids []int64) (int64, error) {
	r, err := db.ExecContext(ctx, `
		UPDATE river_job SET `+available+`
		WHERE state = 'running' AND id = ANY($1) AND attempted_by[array_upper(attempted_by, 1)] = $2`, ids, self)
	if err != nil {
		return 0, err
	}
	return r.RowsAffected()
}

func (postgresDialect) leave(ctx context.Context, db *sql.DB, self string) error {
	_, err := db.ExecContext(ctx, "DELETE FROM llmriver_process WHERE id = $1", self)
	return err
}

// statementTime bounds a statement of ours, so that one on a dead connection is tried again.
const statementTime = 10 * time.Second
