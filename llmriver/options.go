package llmriver

import (
	"fmt"
	"log/slog"
	"time"

	"github.com/llmqueue/llmqueue"
)

// Option changes how Open and SubmitOnly work.
type Option struct{ apply func(*settings) }

type settings struct {
	checkOnly bool
	retention time.Duration
	ahead     int
	lease     time.Duration
	poll      time.Duration
	logger    *slog.Logger
}

func newSettings(opts []Option) (settings, error) {
	s := settings{retention: 24 * time.Hour, ahead: 16, lease: 30 * time.Second, poll: time.Second}
	for _, o := range opts {
		if o.apply != nil {
			o.apply(&s)
		}
	}
	if s.logger == nil {
		s.logger = slog.Default()
	}
	switch {
	case s.retention < time.Second:
		return s, invalid("WithRetention(%v), give a second or more", s.retention)
	case s.ahead < 1 || s.ahead > 1000:
		return s, invalid("WithAhead(%d), give 1 to 1000", s.ahead)
	case s.lease < time.Second:
		return s, invalid("WithLease(%v), give a second or more", s.lease)
	case s.poll < 20*time.Millisecond:
		return s, invalid("WithPollInterval(%v), give 20 ms or more", s.poll)
	}
	return s, nil
}

func invalid(format string, args ...any) error {
	return fmt.Errorf("%w: llmriver: %s", llmqueue.ErrInvalidConfiguration, fmt.Sprintf(format, args...))
}

// WithoutMigrations only checks that the tables are there and up to date, for databases whose
// schema others change: Open fails when they are not. Defaults to applying what is missing;
// processes that start together do it one after the other.
func WithoutMigrations() Option { return Option{func(s *settings) { s.checkOnly = true }} }

// WithRetention sets how long a job that ended stays readable, with its result. Then it is
// not found, and its row is deleted within about a minute. Processes on one database must
// agree. At least a second; defaults to 24 hours.
func WithRetention(d time.Duration) Option { return Option{func(s *settings) { s.retention = d }} }

// WithAhead sets how many jobs of a model this process may hold beyond those that its limits
// let run: see Open. 1 to 1000; defaults to 16.
func WithAhead(n int) Option { return Option{func(s *settings) { s.ahead = n }} }

// WithLease sets, for PostgreSQL, after what time without a sign of life a process counts as
// dead and its jobs go to others, which takes up to a third longer. It signals three times
// per lease. No processor's duration bounds it. At least a second; defaults to 30 seconds. (An
// SQLite file has one process: what the last one left running is there again at once.)
func WithLease(d time.Duration) Option { return Option{func(s *settings) { s.lease = d }} }

// WithPollInterval sets how often a process looks for jobs that no notification told it of, per
// model. Notifications start a new job at once; the poll finds jobs that became available
// otherwise, such as those of a process that died. At least 20 ms; defaults to a second.
func WithPollInterval(d time.Duration) Option { return Option{func(s *settings) { s.poll = d }} }

// WithLogger sets where warnings and errors of the storage go: River's own and this
// package's. Never params, results or passwords. Defaults to slog.Default().
func WithLogger(l *slog.Logger) Option { return Option{func(s *settings) { s.logger = l }} }
