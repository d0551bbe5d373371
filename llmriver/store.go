package llmriver

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/riverqueue/river/riverdriver"
	"github.com/riverqueue/river/rivermigrate"
)

// ErrInUse says that another process, or another Open of this one, has the SQLite file.
var ErrInUse = errors.New("llmriver: the SQLite file is in use")

// Store says where jobs are kept: SQLite, Postgres or PostgresPool make one.
type Store struct {
	open func(ctx context.Context) (*database, error)
}

// database is an open store.
type database struct {
	db     *sql.DB
	driver riverdriver.Driver[*sql.Tx]
	dialect
	close func()
}

// dialect is what the two databases need different words for. River's tables are changed
// here only where its API has no way: an end with its result in one statement for many jobs,
// and jobs of processes that died.
type dialect interface {
	// prepare makes or checks what River's migrations do not have.
	prepare(ctx context.Context, db *sql.DB, checkOnly bool) error
	// locked runs f while no other process migrates.
	locked(ctx context.Context, db *sql.DB, f func() error) error
	// finish gives jobs their final state and output, all or none, and tells which had none yet.
	finish(ctx context.Context, db *sql.DB, ends []*ending) (written map[int64]bool, err error)
	// refused reports whether err says that the data of a statement cannot be stored.
	refused(err error) bool
	// find gives the latest job of a queue with that chosen id, 0 when there is none.
	find(ctx context.Context, db *sql.DB, queue, id string) (int64, error)
	// ended tells of each of these jobs that exists whether it has ended.
	ended(ctx context.Context, db *sql.DB, ids []int64) (map[int64]bool, error)
	// restore gives jobs that were handed back the place they had.
	restore(ctx context.Context, db *sql.DB, ids []int64) error
	// adopt makes the jobs of dead processes available again, before the first fetch.
	adopt(ctx context.Context, db *sql.DB, self string, lease float64) (int64, error)
	// signal says that this process lives, and with sweep takes the jobs of those that do not.
	signal(ctx context.Context, db *sql.DB, self string, lease float64, sweep bool) (int64, error)
	// mine lists jobs that are this process's by the table, for a lease or longer.
	mine(ctx context.Context, db *sql.DB, self string, lease float64) ([]int64, error)
	// free makes jobs of this process available again.
	free(ctx context.Context, db *sql.DB, self string, ids []int64) (int64, error)
	// leave takes the process off the list.
	leave(ctx context.Context, db *sql.DB, self string) error
	// leases reports whether signal is needed.
	leases() bool
}

// migrate brings the tables up to date, or checks that they are.
func (d *database) migrate(ctx context.Context, log *slog.Logger, checkOnly bool) error {
	migrator, err := rivermigrate.New(d.driver, &rivermigrate.Config{Logger: log})
	if err != nil {
		return fmt.Errorf("llmriver: %w", err)
	}
	if checkOnly {
		result, err := migrator.Validate(ctx, nil)
		if err != nil {
			return fmt.Errorf("llmriver: checking the tables: %w", err)
		}
		if !result.OK {
			return fmt.Errorf("llmriver: the tables are not up to date (%v): apply River's migrations, or Open once without WithoutMigrations", result.Messages)
		}
		return d.prepare(ctx, d.db, true)
	}
	return d.locked(ctx, d.db, func() error {
		if _, err := migrator.Migrate(ctx, rivermigrate.DirectionUp, nil); err != nil {
			return fmt.Errorf("llmriver: applying River's migrations: %w", err)
		}
		return d.prepare(ctx, d.db, false)
	})
}

// riverLog is the logger that River gets: it lets only warnings and errors through, and notes
// when the last error was.
type riverLog struct {
	slog.Handler
	trouble *atomic.Int64 // ns since 1970; 0 when there was none
}

func (h riverLog) Enabled(_ context.Context, level slog.Level) bool { return level >= slog.LevelWarn }

func (h riverLog) Handle(ctx context.Context, r slog.Record) error {
	if r.Level >= slog.LevelError {
		h.trouble.Store(time.Now().UnixNano())
	}
	if !h.Handler.Enabled(ctx, r.Level) {
		return nil
	}
	return h.Handler.Handle(ctx, r)
}

func (h riverLog) WithAttrs(attrs []slog.Attr) slog.Handler {
	return riverLog{h.Handler.WithAttrs(attrs), h.trouble}
}

func (h riverLog) WithGroup(name string) slog.Handler {
	return riverLog{h.Handler.WithGroup(name), h.trouble}
}
