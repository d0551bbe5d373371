package llmriver

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/riverqueue/river/riverdriver/riversqlite"
	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"
)

// SQLite keeps jobs in a file, which is made when it is not there; its folder must be. One
// process may have it open: a second one gets ErrInUse. A job is on the disk when Submit
// returns. The file has one connection: while a transaction of yours is open, nothing else
// goes on.
func SQLite(path string) Store {
	return Store{func(ctx context.Context) (*database, error) { return openSQLite(ctx, path) }}
}

func openSQLite(ctx context.Context, path string) (*database, error) {
	if path == "" || strings.Contains(path, ":memory:") {
		return nil, invalid("SQLite(%q), give the path of a file", path)
	}
	if _, err := os.Stat(filepath.Dir(path)); err != nil {
		return nil, invalid("SQLite(%q): the folder cannot be used: %v", path, errors.Unwrap(err))
	}
	// The exclusive mode is the lock against a second process: SQLite takes it at the first
	// access and gives it up when the connection, or its process, ends.
	q := url.Values{"_txlock": {"immediate"}, "_pragma": {
		"busy_timeout(1000)", "locking_mode(EXCLUSIVE)", "journal_mode(WAL)", "synchronous(FULL)",
	}}
	db, err := sql.Open("sqlite", "file:"+(&url.URL{Path: path}).EscapedPath()+"?"+q.Encode())
	if err != nil {
		return nil, fmt.Errorf("llmriver: opening %s: %w", path, err)
	}
	db.SetMaxOpenConns(1)
	db.SetMaxIdleConns(1)
	if _, err := db.ExecContext(ctx, "CREATE TABLE IF NOT EXISTS llmriver_lock (taken integer)"); err != nil {
		_ = db.Close()
		if e := (*sqlite.Error)(nil); errors.As(err, &e) && e.Code()&0xff == sqlite3.SQLITE_BUSY {
			return nil, fmt.Errorf("%w: %s: another process works it, end that one first or use PostgreSQL for several", ErrInUse, path)
		}
		return nil, fmt.Errorf("llmriver: opening %s: %w", path, err)
	}
	return &database{db: db, driver: riversqlite.New(db), dialect: sqliteDialect{}, close: func() { _ = db.Close() }}, nil
}

type sqliteDialect struct{}

func (sqliteDialect) leases() bool { return false }

func (sqliteDialect) locked(_ context.Context, _ *sql.DB, f func() error) error { return f() }

func (sqliteDialect) prepare(ctx context.Context, db *sql.DB, _ bool) error {
	if _, err := db.ExecContext(ctx, "CREATE INDEX IF NOT EXISTS llmriver_job_id ON river_job (queue, args ->> '$.id')"); err != nil {
		return fmt.Errorf("llmriver: making an index: %w", err)
	}
	return nil
}

func (sqliteDialect) finish(ctx context.Context, db *sql.DB, ends []*ending) (map[int64]bool, error) {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return nil, err
	}
	defer tx.Rollback() //nolint:errcheck // after Commit it does nothing
	stmt, err := tx.PrepareContext(ctx, `
		UPDATE river_job SET
			state = ?1,
			finalized_at = datetime('now', 'subsec'),
			metadata = jsonb_set(metadata, '$.output', jsonb(?2)),
			errors = CASE WHEN ?3 IS NULL THEN errors ELSE jsonb_insert(coalesce(errors, jsonb('[]')), '$[#]', jsonb(?3)) END
		WHERE id = ?4 AND finalized_at IS NULL`)
	if err != nil {
		return nil, err
	}
	defer stmt.Close()
	written := make(map[int64]bool, len(ends))
	for _, e := range ends {
		r, err := stmt.ExecContext(ctx, e.state, string(e.output), e.failure, e.jobID)
		if err != nil {
			return nil, err
		}
		if n, err := r.RowsAffected(); err == nil && n > 0 {
			written[e.jobID] = true
		}
	}
	return written, tx.Commit()
}

func (sqliteDialect) refused(err error) bool {
	e := (*sqlite.Error)(nil)
	if !errors.As(err, &e) {
		return false
	}
	switch e.Code() & 0xff {
	case sqlite3.SQLITE_ERROR, sqlite3.SQLITE_TOOBIG, sqlite3.SQLITE_CONSTRAINT, sqlite3.SQLITE_MISMATCH:
		return true
	}
	return false
}

func (sqliteDialect) find(ctx context.Context, db *sql.DB, queue, id string) (jobID int64, err error) {
	err = db.QueryRowContext(ctx, `
		SELECT id FROM river_job WHERE queue = ? AND args ->> '$.id' = ? AND args ->> '$.chosen'
		ORDER BY id DESC LIMIT 1`, queue, id).Scan(&jobID)
	if errors.Is(err, sql.ErrNoRows) {
		return 0, nil
	}
	return jobID, err
}

func (sqliteDialect) ended(ctx context.Context, db *sql.DB, ids []int64) (map[int64]bool, error) {
	list, err := json.Marshal(ids)
	if err != nil {
		return nil, err
	}
	return scanEnded(db.QueryContext(ctx, `
		SELECT id, finalized_at IS NOT NULL FROM river_job WHERE id IN (SELECT value FROM json_each(?))`, string(list)))
}

func scanEnded(rows *sql.Rows, err error) (map[int64]bool, error) {
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	ended := make(map[int64]bool)
	for rows.Next() {
		var id int64
		var final bool
		if err := rows.Scan(&id, &final); err != nil {
			return nil, err
		}
		ended[id] = final
	}
	return ended, rows.Err()
}

func (sqliteDialect) restore(ctx context.Context, db *sql.DB, ids []int64) error {
	list, err := json.Marshal(ids)
	if err == nil {
		_, err = db.ExecContext(ctx, `
			UPDATE river_job SET scheduled_at = created_at
			WHERE state = 'available' AND id IN (SELECT value FROM json_each(?))`, string(list))
	}
	return err
}

// adopt takes all that was running: whoever ran it had the file before us.
func (sqliteDialect) adopt(ctx context.Context, db *sql.DB, _ string, _ float64) (int64, error) {
	r, err := db.ExecContext(ctx, `
		UPDATE river_job SET
			state = CASE WHEN metadata ->> '$.cancel_attempted_at' IS NULL THEN 'available' ELSE 'cancelled' END,
			finalized_at = CASE WHEN metadata ->> '$.cancel_attempted_at' IS NULL THEN NULL ELSE datetime('now', 'subsec') END
		WHERE state = 'running' AND kind = '`+kind+`'`)
	if err != nil {
		return 0, err
	}
	return r.RowsAffected()
}

func (sqliteDialect) signal(context.Context, *sql.DB, string, float64, bool) (int64, error) {
	return 0, nil
}

func (sqliteDialect) mine(context.Context, *sql.DB, string, float64) ([]int64, error) {
	return nil, nil
}

func (sqliteDialect) free(context.Context, *sql.DB, string, []int64) (int64, error) { return 0, nil }

func (sqliteDialect) leave(context.Context, *sql.DB, string) error { return nil }
