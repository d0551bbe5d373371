package llmredis

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/llmqueue/llmqueue"
)

// Options are settings of a Limiter beside its limits. The zero value has the
// defaults.
type Options struct {
	// LocalShare is what part of every limit this process may use by itself while
	// Redis cannot be reached, above 0 and at most 1: with ten replicas, 0.1. Each
	// limit times the share, rounded down, must be at least 1. Zero, the default,
	// stops admitting requests instead, apart from what is leased already.
	//
	// The share comes into force when everything that was granted before has left
	// the windows that last up to two minutes; of longer ones it is a share of what
	// was free when Redis was last heard. So the limits hold if Redis is gone for all
	// processes. They may be exceeded by the shares of those for which it is gone
	// alone: the others go on with all of it.
	LocalShare float64

	// SlotTTL is how long the slots of a process that is not heard of stay its own;
	// without a Concurrent limit it has no effect. A process renews them three times
	// as often, and starts nothing when it could not for two thirds of that time: a
	// call that runs on beyond may overlap with one of another process. Defaults to
	// 10 s; at least 100 ms, at most 1 h.
	SlotTTL time.Duration

	// AcrossModels makes the limits common to all models of a prefix, as those of
	// an organisation are. By default each model has its own.
	AcrossModels bool

	// Margin is how much longer than its period a charge counts, as the provider
	// counts by its own clock when calls arrive. Zero means the default: 2% of the
	// period, at most 250 ms.
	Margin time.Duration

	// Logger is told when Redis cannot be reached, is back, or has lost what it
	// knew. Defaults to slog.Default().
	Logger *slog.Logger
}

// Limiter holds limits for all processes that use the same prefix and, unless
// AcrossModels is set, model: see the package. It is a llmqueue.SharedLimiter for
// llmqueue.WithSharedLimits. Safe for concurrent use.
type Limiter struct {
	client  redis.UniversalClient
	prefix  string
	limits  []llmqueue.Limit
	options Options
	err     error // what New found wrong, told by Join

	mu   sync.Mutex // guards sets; a set's lock may be taken while it is held
	sets map[string]*set
}

// New returns a limiter with the default options. Processes share limits if they use
// the same prefix on the same Redis (6.2 or later, or Valkey): its keys begin with
// "{prefix:model}". What is wrong with the arguments is reported by NewQueue or
// Register as llmqueue.ErrInvalidConfiguration.
//
// The client stays the caller's, who closes it after the queues' Shutdown and Close.
func New(client redis.UniversalClient, prefix string, limits ...llmqueue.Limit) *Limiter {
	return Options{}.New(client, prefix, limits...)
}

// New returns a limiter with these options: see the function New.
func (o Options) New(client redis.UniversalClient, prefix string, limits ...llmqueue.Limit) *Limiter {
	l := &Limiter{client: client, prefix: prefix, limits: slices.Clone(limits), options: o, sets: make(map[string]*set)}
	if l.options.SlotTTL == 0 {
		l.options.SlotTTL = 10 * time.Second
	}
	if l.options.Margin == 0 {
		l.options.Margin = -1
	}
	if l.options.Logger == nil {
		l.options.Logger = slog.Default()
	}
	l.err = l.check(o)
	return l
}

func (l *Limiter) check(o Options) error {
	wrong := func(format string, args ...any) error {
		return fmt.Errorf("%w: llmredis: %s", llmqueue.ErrInvalidConfiguration, fmt.Sprintf(format, args...))
	}
	switch {
	case l.client == nil:
		return wrong("no client, give one made by redis.NewClient")
	case l.prefix == "" || strings.ContainsAny(l.prefix, "{}"):
		return wrong("prefix %q, give one without braces that is not empty", l.prefix)
	case len(l.limits) == 0:
		return wrong("no limits, give at least one")
	case o.LocalShare < 0 || o.LocalShare > 1 || o.LocalShare != o.LocalShare:
		return wrong("LocalShare %v is out of range, give 0 (none) to 1", o.LocalShare)
	case o.SlotTTL != 0 && (o.SlotTTL < 100*time.Millisecond || o.SlotTTL > time.Hour):
		return wrong("SlotTTL %v is out of range, give 100ms to 1h", o.SlotTTL)
	case o.Margin < 0 || o.Margin > time.Hour:
		return wrong("Margin %v is out of range, give 0 (the default) to 1h", o.Margin)
	}
	for _, limit := range l.limits {
		if limit.Period > 0 && limit.Period < 10*time.Millisecond {
			return wrong("%s has a period below 10ms, which a round trip may take", limit)
		}
		if o.LocalShare > 0 && int64(o.LocalShare*float64(limit.Amount)) < 1 {
			return wrong("LocalShare %v of %s is less than 1, give a larger share or none", o.LocalShare, limit)
		}
	}
	// The root's checks of limits.
	_, err := llmqueue.NewSharedLimits(l.limits...).Join("", func() {})
	return err
}

// Join is called by NewQueue; programs do not call it. It does not wait for Redis: a
// queue made while Redis is gone starts requests when it is there.
func (l *Limiter) Join(modelID string, wake func()) (llmqueue.SharedMember, error) {
	if l == nil {
		return nil, fmt.Errorf("%w: llmredis: the limiter is nil", llmqueue.ErrInvalidConfiguration)
	}
	if l.err != nil {
		return nil, l.err
	}
	tag := l.prefix
	if !l.options.AcrossModels {
		tag += ":" + modelID
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.sets[tag]
	if s == nil {
		s = newSet(l, tag)
		l.sets[tag] = s
	}
	m := &member{set: s, wake: wake}
	s.mu.Lock()
	s.members++
	s.mu.Unlock()
	return m, nil
}

// Close waits until everything that this process gives back has been told to Redis.
// Call it after the Shutdown of the queues, for their reservations: without it, slots and unused quota of a
// process that ends come free a few seconds later. It returns ctx's error when that
// ends first.
func (l *Limiter) Close(ctx context.Context) error {
	for {
		l.mu.Lock()
		var one *set
		for _, s := range l.sets {
			one = s
			break
		}
		l.mu.Unlock()
		if one == nil {
			return nil
		}
		one.kick()
		select {
		case <-one.over:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// forget takes a set that nobody uses out of the map, and reports whether it could.
func (l *Limiter) forget(s *set) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.unused() {
		return false
	}
	delete(l.sets, s.tag)
	return true
}

// redact takes the client's password out of a text, should an error quote it.
func (l *Limiter) redact(err error) error {
	var secrets []string
	switch c := l.client.(type) {
	case *redis.Client:
		secrets = append(secrets, c.Options().Password)
	case *redis.ClusterClient:
		secrets = append(secrets, c.Options().Password)
	}
	text := err.Error()
	for _, s := range secrets {
		if s != "" {
			text = strings.ReplaceAll(text, s, "…")
		}
	}
	return errors.New(text)
}

//go:embed set.lua
var source string
