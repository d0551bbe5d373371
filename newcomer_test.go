package llmqueue

import (
	"context"
	"encoding/json"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// mistakes are what a newcomer does wrong, with the whole message that says what to do.
var mistakes = []struct {
	name string
	make func(t *testing.T) error
	says string
}{
	{"nil processor", func(*testing.T) error { return notMade(nil, WithUnlimited()) }, `llmqueue: model "m": invalid configuration: nil processor, give the function that makes the call`},
	{"no model", func(*testing.T) error {
		_, err := NewQueue("", echo, WithUnlimited())
		return err
	}, `llmqueue: model "": invalid configuration: empty model id, name the model`},
	{"no limits", func(*testing.T) error { return notMade(echo) }, `llmqueue: model "m": invalid configuration: no limits, use WithLimits, WithSharedLimits, WithLearnedLimits or WithUnlimited`},
	{"negative limit", func(*testing.T) error { return notMade(echo, WithLimits(RPM(-1))) }, `llmqueue: model "m": invalid configuration: limit -1 rpm: limit: -1 is out of range, give 1 to 281474976710656`},
	{"negative period", func(*testing.T) error { return notMade(echo, WithLimits(RPM(5).Per(-time.Second))) }, `llmqueue: model "m": invalid configuration: limit 5 rpm per -1s: time_period: -1s is out of range, give more than 0 and at most 366 days`},
	{"zero period in JSON", func(*testing.T) error { return fromJSON(`{"type":"rpm","limit":5,"time_period":0}`) }, `llmqueue: model "m": invalid configuration: rate_limiters[0].time_period: 0 is no positive number of seconds, give a string like "60s" or a number of seconds`},
	{"the same limit twice", func(*testing.T) error { return notMade(echo, WithLimits(RPM(5), RPM(6))) }, `llmqueue: model "m": invalid configuration: limits 5 rpm and 6 rpm are of one kind and period, keep one`},
	{"WithLimits twice", func(*testing.T) error { return notMade(echo, WithLimits(RPM(5)), WithLimits(TPM(6))) }, `llmqueue: model "m": invalid configuration: WithLimits and then WithLimits in one list of options, the first would be lost: put all limits into one WithLimits`},
	{"no retry at all", func(*testing.T) error {
		return notMade(echo, WithUnlimited(), WithRetry(RetryPolicy{MaxAttempts: -1}))
	}, `llmqueue: model "m": invalid configuration: RetryPolicy.MaxAttempts is -1, give 1 or more (0 means 5)`},
	{"unknown limit type in JSON", func(*testing.T) error { return fromJSON(`{"type":"rps","limit":5}`) }, `llmqueue: model "m": invalid configuration: rate_limiters[0].type: unknown kind "rps", use rpm, rpd, tpm, tpd, itpm, otpm or concurrent`},
	{"misspelt member in JSON", func(*testing.T) error { return fromJSON(`{"type":"rpm","limits":5}`) }, `llmqueue: model "m": invalid configuration: rate_limiters[0].limits: unknown field, use type, limit, time_period, burst, resets`},
	{"unregistered model", func(t *testing.T) error { return submitted(newManager[int, int](t), Request[int]{ModelID: "x"}) }, `llmqueue: model "x": model not registered: Register it first`},
	{"model registered twice", func(t *testing.T) error {
		m := withModel(t)
		_, err := m.Register("m", echo, WithUnlimited())
		return err
	}, `llmqueue: model "m": model already registered: use Queue to get it or Unregister it first`},
	{"model twice in a list", func(t *testing.T) error {
		twice := ModelConfig{ModelID: "x", Limits: []Limit{RPM(1)}}
		return newManager[int, int](t).RegisterAll([]ModelConfig{twice, twice}, echo)
	}, `llmqueue: model "x": invalid configuration: it stands twice in the list, leave one out`},
	{"request for another queue's model", func(t *testing.T) error {
		return submitted(newQueue(t, echo, WithUnlimited()), Request[int]{ModelID: "x"})
	}, `llmqueue: model "x": model not registered: this is the queue of "m", submit the request through a Manager or leave ModelID empty`},
	{"zero Request to a Manager", func(t *testing.T) error { return submitted(withModel(t), Request[int]{}) }, `llmqueue: model not registered: the request names no model, set ModelID`},
	{"zero Queue", func(*testing.T) error { return submitted(new(Queue[int, int]), Request[int]{}) }, `llmqueue: invalid configuration: the zero Queue does nothing, make one with NewQueue or Manager.Register`},
	{"reused id", func(t *testing.T) error {
		q := newQueue(t, sleeper, WithUnlimited())
		require.NoError(t, submitted(q, Request[int]{ID: "r", Params: 9, NoWait: true}))
		return submitted(q, Request[int]{ID: "r"})
	}, `llmqueue: model "m", request "r": duplicate request id: use another id or leave it empty`},
	{"estimate above a limit", func(t *testing.T) error {
		return submitted(newQueue(t, echo, WithLimits(TPM(10))), Request[int]{Estimate: Usage{InputTokens: 1, OutputTokens: 20}})
	}, `llmqueue: model "m": request too large, it can never fit its limits: the limit is 10 tpm, the request reserves 1 input token and 20 output tokens: make it smaller or raise the limit`},
	{"negative estimate", func(t *testing.T) error {
		return submitted(newQueue(t, echo, WithUnlimited()), Request[int]{Estimate: in(-1)})
	}, `llmqueue: invalid params: Estimate.InputTokens is -1, give a number from 0 to 281474976710656`},
	{"negative MaxWait", func(t *testing.T) error {
		return submitted(newQueue(t, echo, WithUnlimited()), Request[int]{MaxWait: -time.Second})
	}, `llmqueue: invalid params: Request.MaxWait is -1s, give 0 (no bound) or more`},
	{"deadline that cannot be met", func(t *testing.T) error {
		q := newQueue(t, echo, WithLimits(RPM(1)), WithMargin(0))
		require.NoError(t, submitted(q, Request[int]{}))
		return submitted(q, Request[int]{MaxWait: 20 * time.Second})
	}, `llmqueue: model "m": the request could start only 40s after its deadline (it waits for: 1 rpm): allow more time or raise the limits`},
	{"MaxWait that passes", func(t *testing.T) error {
		q := newQueue(t, sleeper, WithLimits(Concurrent(1)))
		require.NoError(t, submitted(q, Request[int]{Params: 9, NoWait: true}))
		return submitted(q, Request[int]{ID: "r", MaxWait: time.Second})
	}, `llmqueue: model "m", request "r": request waited too long: it could not start within its MaxWait of 1s, allow more time or raise the limits`},
	{"Do after Shutdown", func(t *testing.T) error {
		q := newQueue(t, echo, WithUnlimited())
		require.NoError(t, q.Shutdown(t.Context()))
		_, err := q.Do(t.Context(), 1)
		return err
	}, `llmqueue: model "m": queue closed: it was shut down, submit elsewhere`},
	{"full queue", func(t *testing.T) error {
		q := newQueue(t, sleeper, WithLimits(Concurrent(1)), WithMaxQueued(1))
		for range 2 {
			require.NoError(t, submitted(q, Request[int]{Params: 9, NoWait: true}))
		}
		return submitted(q, Request[int]{})
	}, `llmqueue: model "m": queue full: 1 request waiting, try later or raise WithMaxQueued`},
	{"unknown id", func(t *testing.T) error {
		_, err := newQueue(t, echo, WithUnlimited()).Status("r")
		return err
	}, `llmqueue: model "m", request "r": request not found: never accepted, or ended and forgotten (see WithHistory; at once when a Submit waited for it under an assigned id)`},
	{"fallback not registered, to Check", func(t *testing.T) error { return withModel(t, WithFallback("x")).Check() }, `llmqueue: model "m": invalid configuration: its fallback "x": model not registered: Register it too, or take it out of WithFallback`},
	{"fallback not registered, to Submit", func(t *testing.T) error {
		return submitted(withModel(t, WithFallback("x")), Request[int]{ModelID: "m"})
	}, `llmqueue: model "m": invalid configuration: its fallback "x": model not registered: Register it too, or take it out of WithFallback`},
	{"fallback on itself", func(t *testing.T) error {
		_, err := newManager[int, int](t).Register("m", echo, WithUnlimited(), WithFallback("m"))
		return err
	}, `llmqueue: model "m": invalid configuration: fallbacks go in a circle: m → m, take one out`},
	{"fallback without a Manager", func(*testing.T) error { return notMade(echo, WithUnlimited(), WithFallback("x")) }, `llmqueue: model "m": invalid configuration: WithFallback needs a Manager, Register the models there`},
	{"Emit without a Stream", func(t *testing.T) error {
		return submitted(newQueue(t, counter, WithUnlimited()), Request[int]{ID: "r", Params: 1})
	}, `llmqueue: model "m", request "r": failed after 1 attempt: Emit without a consumer: call Stream instead of Do, Submit or SubmitAll (its Response alone drops the chunks), and give Emit the processor's context`},
	{"Emit of another type", func(t *testing.T) error {
		_, err := take(Stream[string](t.Context(), newQueue(t, counter, WithUnlimited()), Request[int]{ID: "r", Params: 1}).Chunks())
		return err
	}, `llmqueue: model "m", request "r": failed after 1 attempt: Emit got a chunk of type int, but the consumer called Stream[string]: give both the same type`},
	{"Again without ErrTryAgain", func(t *testing.T) error {
		p := acquire(t, newQueue(t, echo, WithUnlimited()), Claim{})
		defer func() { require.NoError(t, p.Done(nil)) }()
		return p.Again(t.Context())
	}, `llmqueue: Again without ErrTryAgain, call it once after a Done that returned that`},
	{"Done twice", func(t *testing.T) error {
		p := acquire(t, newQueue(t, echo, WithUnlimited()), Claim{})
		require.NoError(t, p.Done(nil))
		return p.Done(nil)
	}, `llmqueue: Done of an attempt that is over already, call it once for each attempt`},
	{"validation tag that does not exist", func(*testing.T) error {
		type params struct {
			Text string `validate:"requird"`
		}
		_, err := NewQueue("m", func(context.Context, Request[params]) (int, error) { return 0, nil }, WithUnlimited())
		return err
	}, `llmqueue: model "m": invalid configuration: llmqueue.params: Undefined validation function 'requird' on field 'Text', correct the tag or give WithValidator one that knows it`},
	{"invalid params", func(t *testing.T) error {
		type params struct {
			Text string `validate:"required"`
		}
		q := newQueue(t, func(context.Context, Request[params]) (int, error) { return 0, nil }, WithUnlimited())
		_, err := q.Do(t.Context(), params{})
		return err
	}, `llmqueue: invalid params: params.Text must satisfy "required"`},
	{"waiting for itself in a processor", func(t *testing.T) error {
		var q *Queue[int, int]
		q = newQueue(t, func(ctx context.Context, r Request[int]) (int, error) {
			resp, err := q.Wait(ctx, r.ID)
			return resp.Result, err
		}, WithUnlimited())
		return submitted(q, Request[int]{ID: "r"})
	}, `llmqueue: model "m", request "r": failed after 1 attempt: model "m": invalid configuration: a processor would wait for its own request: ask without its key or id`},
	{"Shutdown in a processor", func(t *testing.T) error {
		var q *Queue[int, int]
		q = newQueue(t, func(ctx context.Context, _ Request[int]) (int, error) { return 0, q.Shutdown(ctx) }, WithUnlimited())
		return submitted(q, Request[int]{ID: "r"})
	}, `llmqueue: model "m", request "r": failed after 1 attempt: model "m": Shutdown from within a processor would wait for that processor: call it outside, or on a goroutine with another context`},
	{"unknown endpoint", func(t *testing.T) error {
		return newQueue(t, echo, WithUnlimited()).RemoveEndpoint(t.Context(), "second")
	}, `llmqueue: model "m", endpoint "second": invalid configuration: no such endpoint, AddEndpoint it first`},
	{"endpoint without limits", func(t *testing.T) error { return newQueue(t, echo, WithUnlimited()).AddEndpoint("second", echo) }, `llmqueue: model "m", endpoint "second": invalid configuration: no limits, use WithLimits, WithSharedLimits, WithLearnedLimits or WithUnlimited`},
}

// TestNewcomersMistakes: each is one line that begins alike and says what to do.
func TestNewcomersMistakes(t *testing.T) {
	for _, c := range mistakes {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				err := c.make(t)
				require.Error(t, err)
				assert.Equal(t, c.says, err.Error())
				assert.Equal(t, 0, strings.Index(err.Error(), "llmqueue: "))
			})
		})
	}
}

// notMade is why there is no queue of the model "m".
func notMade(process Processor[int, int], opts ...Option) error {
	_, err := NewQueue("m", process, opts...)
	return err
}

// fromJSON is why a configuration of the model "m" with that limit is not read.
func fromJSON(limit string) error {
	return json.Unmarshal([]byte(`{"model_id":"m","rate_limiters":[`+limit+`]}`), new(ModelConfig))
}

// withModel is a manager of the model "m".
func withModel(t *testing.T, opts ...Option) *Manager[int, int] {
	m := newManager[int, int](t)
	_, err := m.Register("m", echo, append([]Option{WithUnlimited()}, opts...)...)
	require.NoError(t, err)
	return m
}

// submitted is the error of Submit.
func submitted(to interface {
	Submit(context.Context, Request[int]) (Response[int], error)
}, req Request[int]) error {
	_, err := to.Submit(context.Background(), req)
	return err
}
