package makespan

import (
	"fmt"
	"time"

	"github.com/llmqueue/llmqueue/llmtest"
)

// Limits are what the provider enforces, requests and tokens both.
type Limits struct {
	Requests, Tokens int64 // per Period
	Period           time.Duration
}

// parts is how many slices a period has when it is enforced in slices, as Azure
// documents six of ten seconds in a minute.
const parts = 6

func (l Limits) slice() time.Duration { return l.Period / parts }

// Scaled is what a time of a real minute comes to when the minute lasts a period.
func (l Limits) Scaled(d time.Duration) time.Duration {
	return time.Duration(float64(d) * l.Period.Minutes())
}

// LimitsFor are such that the questions fill that many periods as far as requests go, and
// seven percent less as far as tokens do: mostly the one limit binds and sometimes the
// other. They divide into whole slices, of which one has room for the largest call.
func LimitsFor(questions []Question, period time.Duration, periods int64) Limits {
	var tokens, largest int64
	for _, q := range questions {
		tokens += q.tokens()
		largest = max(largest, q.tokens())
	}
	up := func(n, to int64) int64 { return (n + to - 1) / to * to }
	return Limits{
		Requests: up(up(int64(len(questions)), periods)/periods, parts),
		Tokens:   up(max(tokens*107/100/periods, parts*largest), 100*parts),
		Period:   period,
	}
}

// Enforcement is how the provider counts.
type Enforcement struct {
	Name     string // for flags
	What     string // for people
	strategy llmtest.Strategy
	meter    func(amount int64, period time.Duration) meter
}

// Enforcements are the ways to count that providers are known for. Windows and slices
// of the clock begin when the provider does.
var Enforcements = []Enforcement{
	{"bucket", "token bucket", llmtest.TokenBucket, newBucket},
	{"sliding", "sliding window", llmtest.SlidingWindow, newSliding},
	{"fixed", "fixed window", llmtest.FixedWindow, newFixed},
	{"quantized", "slices of a sixth of the period", llmtest.Quantized, newSliced},
}

// EnforcementNamed returns the enforcement with that name.
func EnforcementNamed(name string) (Enforcement, error) {
	for _, e := range Enforcements {
		if e.Name == name {
			return e, nil
		}
	}
	return Enforcement{}, fmt.Errorf("no enforcement %q: use all, bucket, sliding, fixed or quantized", name)
}

// limits are those of the simulator.
func (e Enforcement) limits(l Limits) []llmtest.Limit {
	both := []llmtest.Limit{llmtest.RPM(l.Requests).Per(l.Period), llmtest.TPM(l.Tokens).Per(l.Period)}
	for i := range both {
		both[i].Strategy = e.strategy
		if e.strategy == llmtest.Quantized {
			both[i].Slice = l.slice()
		}
	}
	return both
}

func (e Enforcement) announced(l Limits) time.Duration {
	if e.strategy == llmtest.Quantized {
		return l.slice()
	}
	return l.Period
}
