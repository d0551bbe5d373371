package llmqueue

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// What was observed can be asked for in the processor and in a middleware after next.
func TestObservedIsTheLatestOutcomeAndAllUsage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var seen []Observation
		look := func(ctx context.Context) { seen = append(seen, Observed(ctx)) }
		first, second := time.Now(), time.Now().Add(time.Second)
		limits := []ObservedLimit{{Kind: KindRPM, Amount: 500, Remaining: 499}}
		q := newQueue(t, func(ctx context.Context, _ Request[int]) (int, error) {
			look(ctx)
			Observe(ctx, Observation{SentAt: first, Outcome: OutcomeOverloaded, Delay: time.Second, Code: "busy", Usage: in(1)})
			look(ctx)
			Observe(ctx, Observation{Usage: in(10)})
			Observe(ctx, Observation{SentAt: second, Outcome: OutcomeServed, Limits: limits, Usage: in(100)})
			look(context.WithValue(ctx, traceKey{}, 1))
			Observe(ctx, Observation{Output: true})
			Observed(ctx).Limits[0].Amount = 1
			return 0, nil
		}, WithUnlimited(), WithMiddleware(func(ctx context.Context, _ Attempt, next func(context.Context) error) error {
			err := next(ctx)
			look(ctx)
			return err
		}))
		_, err := q.Do(t.Context(), 1)
		require.NoError(t, err)
		served := Observation{SentAt: second, Outcome: OutcomeServed, Limits: limits, Usage: in(111)}
		told := served
		told.Output = true
		assert.Equal(t, []Observation{
			{},
			{SentAt: first, Outcome: OutcomeOverloaded, Delay: time.Second, Code: "busy", Usage: in(1)},
			served, told,
		}, seen)
		assert.EqualValues(t, 500, limits[0].Amount, "what is handed out may be changed")
		assert.Zero(t, Observed(t.Context()), "outside an attempt")
	})
}

// nilCase is an attempt that observed something and returned no error.
type nilCase struct {
	name    string
	says    []Observation
	outcome Outcome // what it came to: OutcomeServed is success
	next    time.Duration
	fails   bool // no attempt follows
}

var nilCases = func() []nilCase {
	const s = time.Second
	at := func(n int, o Outcome) Observation {
		return Observation{SentAt: time.Unix(int64(n), 0), Outcome: o, Delay: 5 * s, Code: "word"}
	}
	return []nilCase{
		{name: "nothing said", outcome: OutcomeServed},
		{name: "served", says: []Observation{at(1, OutcomeServed)}, outcome: OutcomeServed},
		{name: "rate limited", says: []Observation{at(1, OutcomeRateLimited)}, outcome: OutcomeRateLimited, next: 5 * s},
		{name: "slow down", says: []Observation{at(1, OutcomeSlowDown)}, outcome: OutcomeSlowDown, next: 5 * s},
		{name: "overloaded", says: []Observation{at(1, OutcomeOverloaded)}, outcome: OutcomeOverloaded, next: 5 * s},
		{name: "without a time", says: []Observation{{Outcome: OutcomeRateLimited, Delay: 5 * s}}, outcome: OutcomeRateLimited, next: 5 * s},
		{name: "quota exhausted", says: []Observation{at(1, OutcomeQuotaExhausted)}, outcome: OutcomeQuotaExhausted, fails: true},
		{name: "failed, then refused", says: []Observation{at(1, OutcomeRetryable), at(2, OutcomeRateLimited)}, outcome: OutcomeRateLimited, next: 5 * s},
		{name: "refused, then failed", says: []Observation{at(1, OutcomeRateLimited), at(2, OutcomeRetryable)}, outcome: OutcomeServed},
		{name: "refused, then served by the SDK's retry", says: []Observation{at(1, OutcomeRateLimited), at(2, OutcomeServed)}, outcome: OutcomeServed},
		{name: "served, and another call refused", says: []Observation{at(1, OutcomeServed), at(2, OutcomeRateLimited)}, outcome: OutcomeServed},
		{name: "refused, and the processor knows better", says: []Observation{at(1, OutcomeRateLimited), {Outcome: OutcomeServed}}, outcome: OutcomeServed},
		{name: "fatal", says: []Observation{at(1, OutcomeFatal)}, outcome: OutcomeServed},
		{name: "elsewhere", says: []Observation{at(1, OutcomeElsewhere)}, outcome: OutcomeServed},
		{name: "retryable", says: []Observation{at(1, OutcomeRetryable)}, outcome: OutcomeServed},
		{name: "broke", says: []Observation{at(1, OutcomeServed), at(1, OutcomeRetryable)}, outcome: OutcomeRetryable, next: 5 * s},
		{name: "carried a refusal", says: []Observation{at(1, OutcomeServed), at(1, OutcomeOverloaded)}, outcome: OutcomeOverloaded, next: 5 * s},
		{name: "carried a fatal error", says: []Observation{at(1, OutcomeServed), at(1, OutcomeFatal)}, outcome: OutcomeFatal, fails: true},
		{name: "broke, then refused", says: []Observation{at(1, OutcomeServed), at(1, OutcomeRetryable), at(2, OutcomeRateLimited)}, outcome: OutcomeRateLimited, next: 5 * s},
		{name: "broke, then failed", says: []Observation{at(1, OutcomeServed), at(1, OutcomeRetryable), at(2, OutcomeRetryable)}, outcome: OutcomeRetryable, next: 5 * s},
		{name: "broke, then served", says: []Observation{at(1, OutcomeServed), at(1, OutcomeRetryable), at(2, OutcomeServed)}, outcome: OutcomeServed},
		{name: "broke, and the processor knows better", says: []Observation{at(1, OutcomeServed), at(1, OutcomeRetryable), {Outcome: OutcomeServed}}, outcome: OutcomeServed},
	}
}()

// A processor that returns nil is believed as far as the wire does not say that nothing was
// served; the attempt is judged by what was observed then, for permits as well.
func TestNilIsSuccessUnlessNothingWasServed(t *testing.T) {
	for _, c := range nilCases {
		call := func(ctx context.Context, attempt int) {
			for _, o := range c.says {
				if attempt == 1 {
					Observe(ctx, o)
				}
			}
		}
		ways := map[string]func(t *testing.T, q *Queue[int, int]) (attempts int, err error){
			"processor": func(t *testing.T, q *Queue[int, int]) (int, error) {
				resp, err := q.Submit(t.Context(), Request[int]{})
				return resp.Attempts, err
			},
			"permit": func(t *testing.T, q *Queue[int, int]) (attempts int, err error) {
				p := acquire(t, q, Claim{})
				for err = ErrTryAgain; errors.Is(err, ErrTryAgain); {
					attempts++
					call(p.Context(), attempts)
					if err = p.Done(nil); errors.Is(err, ErrTryAgain) {
						require.NoError(t, p.Again(t.Context()))
					}
				}
				return attempts, err
			},
			"Call": func(t *testing.T, q *Queue[int, int]) (attempts int, err error) {
				err = q.Call(t.Context(), Claim{}, func(ctx context.Context) error {
					attempts++
					call(ctx, attempts)
					return nil
				})
				return attempts, err
			},
		}
		for way, ask := range ways {
			t.Run(c.name+", "+way, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					begin, calls := time.Now(), 0
					var outcomes []Outcome
					q := newQueue(t, func(ctx context.Context, _ Request[int]) (int, error) {
						calls++
						call(ctx, calls)
						return 7, nil
					}, WithUnlimited(), WithMiddleware(func(ctx context.Context, _ Attempt, next func(context.Context) error) error {
						err := next(ctx)
						outcomes = append(outcomes, OutcomeOf(ctx, err))
						return err
					}))
					attempts, err := ask(t, q)
					switch {
					case c.fails:
						assert.Equal(t, 1, attempts)
						require.ErrorContains(t, err, "word")
						assert.Equal(t, c.outcome == OutcomeQuotaExhausted, errors.Is(err, ErrQuotaExhausted))
					case c.outcome == OutcomeServed:
						require.NoError(t, err)
						assert.Equal(t, 1, attempts)
					default:
						require.NoError(t, err)
						assert.Equal(t, 2, attempts)
						assert.GreaterOrEqual(t, time.Since(begin), c.next, "as the provider asked")
					}
					if way != "permit" { // nothing surrounds one
						assert.Equal(t, c.outcome, outcomes[0], "as a middleware is told")
					}
				})
			})
		}
	}
}
