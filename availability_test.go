package llmqueue_test

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/llmqueue/llmqueue"
)

// situations are the rows of the table in docs/guides/availability.md, word for word, and how
// each of them is played.
var situations = []struct {
	situation, happens string
	play               func(*scene)
}{
	{
		"One of two endpoints is dead and fails fast",
		"The other one serves. The dead one gets a probe every 5 s at most",
		func(s *scene) {
			dead, eu := s.provider("dead", always(failing)), s.provider("eu", always(healthy))
			q := s.model("m", dead)
			s.endpoint(q, eu)
			s.allServed(s.ask(q, 10, 0, llmqueue.Request[int]{}), "eu", time.Second)
			s.allServed(s.ask(q, 300, time.Second, llmqueue.Request[int]{}), "eu", time.Second)
			s.atMost(20+60, dead.total(), "calls to the dead endpoint, of 310")
		},
	},
	{
		"The key of one endpoint is revoked (401)",
		"The other endpoints serve, with a breaker and without. The revoked one gets a probe every 30 s at most",
		func(s *scene) {
			for model, opts := range map[string][]llmqueue.Option{
				"m":         nil,
				"m breaker": {llmqueue.WithBreaker(func(string) llmqueue.Breaker { return &fuse{most: 3} })},
			} {
				revoked, eu := s.provider("revoked", always(reaction{status: 401})), s.provider("eu", always(healthy))
				q := s.model(model, revoked, append(opts, llmqueue.WithRetry(llmqueue.RetryPolicy{MaxAttempts: 1}))...)
				s.endpoint(q, eu)
				s.allServed(s.ask(q, 100, time.Second, llmqueue.Request[int]{}), "eu", time.Second)
				s.atMost(10, revoked.total(), "calls with the revoked key, of 100: "+model)
			}
		},
	},
	{
		"401, 403 or 404, and a fallback is healthy",
		"The fallback serves at once. No attempt is used up",
		func(s *scene) {
			s.fallback("f")
			for _, status := range []int{401, 403, 404} {
				p := s.provider("m", always(reaction{status: status}))
				q := s.model(fmt.Sprint("m ", status), p, llmqueue.WithFallback("f"), llmqueue.WithRetry(llmqueue.RetryPolicy{MaxAttempts: 1}))
				s.allServed(s.ask(q, 50, servedIn, llmqueue.Request[int]{}), "f", 2*servedIn)
				s.atMost(10, p.total(), fmt.Sprint("calls that got ", status, ", of 50"))
			}
		},
	},
	{
		"429 for an hour, and a fallback is healthy",
		"The fallback serves as soon as the pause is known, with a deadline and without",
		func(s *scene) {
			s.fallback("f")
			for _, deadline := range []time.Duration{time.Minute, 0} {
				p := s.provider("m", always(reaction{status: 429, wait: time.Hour}))
				q := s.model(fmt.Sprint("m ", deadline), p, llmqueue.WithFallback("f"))
				s.allServed(s.askWithin(deadline, q, 10, time.Second, llmqueue.Request[int]{}), "f", time.Second)
				s.atMost(1, p.total(), "calls to a provider that said: not before an hour")
			}
		},
	},
	{
		"A call hangs until a timeout passes",
		"Another endpoint takes it, then a fallback. Each try counts as an attempt",
		func(s *scene) {
			s.fallback("f")
			const limit = 10 * time.Second
			for name, c := range map[string]struct {
				react   reaction
				timeout llmqueue.Option
			}{
				"whole":      {hanging, llmqueue.WithTimeout(limit)},
				"first byte": {hanging, llmqueue.WithFirstByteTimeout(limit)},
				"stall":      {reaction{stalls: true}, llmqueue.WithStallTimeout(limit)},
			} {
				q := s.model("two "+name, s.provider("hung", always(c.react)), c.timeout)
				s.endpoint(q, s.provider("eu", always(healthy)))
				s.allServed(s.ask(q, 20, time.Second, llmqueue.Request[int]{}), "eu", limit+time.Second)

				q = s.model("one "+name, s.provider("hung", always(c.react)), c.timeout, llmqueue.WithFallback("f"),
					llmqueue.WithRetry(llmqueue.RetryPolicy{MaxAttempts: 2}))
				got := s.ask(q, 120, time.Second, llmqueue.Request[int]{})
				s.allServed(got, "f", limit+time.Second)
				assert.LessOrEqual(s, got.quantile(0.5), time.Second, "the median: it is noticed that all calls hang")
				assert.Equal(s, 2, got[0].attempts, "one here and one at the fallback")
			}
		},
	},
	{
		"An outage of 2 min, and a fallback is healthy",
		"The fallback serves, the first requests within seconds, the others at once. When the outage is over, the model serves again",
		func(s *scene) {
			s.fallback("f")
			p := s.provider("m", until(2*time.Minute, failing, healthy))
			q := s.model("m", p, llmqueue.WithFallback("f"))
			got := s.ask(q, 1500, servedIn, llmqueue.Request[int]{}) // ten a second, for two and a half minutes
			n, why := got.failed()
			assert.Zero(s, n, "requests failed, the first with: %v", why)
			assert.LessOrEqual(s, got.quantile(0.5), time.Second, "the median answer")
			assert.LessOrEqual(s, got.slowest(), 15*time.Second, "the slowest answer")
			s.atMost(100, p.called(0, 2*time.Minute), "calls to the model that is down, of 1200")
			late := got.after(140 * time.Second)
			assert.GreaterOrEqual(s, late.served("m"), len(late)*9/10, "of %d requests after the outage served by the model itself", len(late))
		},
	},
	{
		"A server allows one call a second and does not say how long to wait",
		"Requests keep their places and wait. None fails",
		func(s *scene) {
			var next time.Duration
			p := s.provider("m", func(at time.Duration) reaction {
				if at < next {
					return reaction{status: 429}
				}
				next = at + time.Second
				return healthy
			})
			got := s.ask(s.model("m", p), 60, 0, llmqueue.Request[int]{})
			s.allServed(got, "m", 5*time.Minute)
		},
	},
	{
		"A pause ends and many requests wait",
		"Calls start slowly: one, then twice as many with each round of answers",
		func(s *scene) {
			p := s.provider("m", until(10*time.Second, reaction{status: 429, wait: 10 * time.Second}, healthy))
			got := s.ask(s.model("m", p), 100, 0, llmqueue.Request[int]{})
			s.allServed(got, "m", 15*time.Second)
			first := p.calls[len(p.calls)-100] // each is served by its last call
			assert.GreaterOrEqual(s, first, 10*time.Second, "none starts before the pause is over")
			s.atMost(2, p.called(first, first+servedIn/2), "calls at the instant when it is over")
			s.atMost(10, p.called(first, first+servedIn*5/2), "calls until the second round of answers is there")
		},
	},
	{
		"A provider asks to wait longer than WithMaxPause allows",
		"It counts as an exhausted quota: a fallback serves, or the request fails with ErrQuotaExhausted, or it waits where WithWaitForQuota is set. Resume ends any pause",
		func(s *scene) {
			s.fallback("f")
			ask := func(wait time.Duration, opts ...llmqueue.Option) sights {
				from := s.now()
				p := s.provider("m", until(from+time.Minute, reaction{status: 429, wait: wait}, healthy))
				q := s.model(fmt.Sprint("m ", from), p, opts...)
				resumes := time.AfterFunc(61*time.Second, q.Resume)
				defer resumes.Stop()
				defer time.Sleep(time.Second)
				return s.ask(q, 3, time.Second, llmqueue.Request[int]{})
			}
			const days = 77 * time.Hour
			for _, got := range []sights{ask(days), ask(30*time.Second, llmqueue.WithMaxPause(20*time.Second))} {
				for _, v := range got {
					require.ErrorIs(s, v.err, llmqueue.ErrQuotaExhausted)
					assert.LessOrEqual(s, v.took, servedIn)
				}
			}
			s.allServed(ask(days, llmqueue.WithFallback("f")), "f", 2*servedIn)
			s.allServed(ask(days, llmqueue.WithWaitForQuota()), "m", 62*time.Second)
			s.allServed(ask(50*time.Minute), "m", 62*time.Second)
		},
	},
	{
		"The limits let a request start only after its deadline",
		"It goes to a fallback or fails at once, whatever stands ahead of it in line",
		func(s *scene) {
			s.fallback("f")
			for model, opts := range map[string][]llmqueue.Option{"m": nil, "m falls back": {llmqueue.WithFallback("f")}} {
				q := s.model(model, s.provider("m", always(healthy)), append(opts, llmqueue.WithLimits(llmqueue.RPM(1)))...)
				for range 2 { // of unknown size: one runs, the other one waits for a minute
					_, err := q.Submit(s.Context(), llmqueue.Request[int]{NoWait: true})
					require.NoError(s, err)
				}
				got := s.askWithin(10*time.Second, q, 1, 0, llmqueue.Request[int]{})
				if opts != nil {
					s.allServed(got, "f", servedIn)
					continue
				}
				require.ErrorIs(s, got[0].err, llmqueue.ErrQueueTimeout)
				assert.Zero(s, got[0].took, "it is refused at once")
			}
		},
	},
	{
		"Estimates with a high max_tokens fill the token limit",
		"Nothing is refused for its deadline: what others reserved may come back",
		func(s *scene) {
			p := s.provider("m", always(reaction{after: 300 * time.Millisecond, used: llmqueue.Usage{InputTokens: 5, OutputTokens: 5}}))
			q := s.model("m", p, llmqueue.WithLimits(llmqueue.TPM(1000)))
			_, err := q.Submit(s.Context(), llmqueue.Request[int]{NoWait: true, Estimate: llmqueue.Usage{InputTokens: 5, OutputTokens: 990}})
			require.NoError(s, err)
			s.allServed(s.askWithin(10*time.Second, q, 1, 0, llmqueue.Request[int]{Estimate: llmqueue.Usage{InputTokens: 5, OutputTokens: 500}}), "m", time.Second)
		},
	},
	{
		"Sizes are not known yet, and Forecast is asked",
		"It says what the request would wait for, or that it would start now, and so it is",
		func(s *scene) {
			q := s.model("m", s.provider("m", always(reaction{after: 10 * time.Minute})), llmqueue.WithLimits(llmqueue.TPM(1000)))
			for range 3 {
				f, err := q.Forecast(s.Context(), llmqueue.Request[int]{})
				require.NoError(s, err)
				r, err := q.Submit(s.Context(), llmqueue.Request[int]{NoWait: true})
				require.NoError(s, err)
				synctest.Wait()
				is, err := q.Status(r.RequestID)
				require.NoError(s, err)
				assert.Equal(s, is.Status == llmqueue.StatusPending, f.WaitsFor != "", "it is %s, and was to wait for %q", is.Status, f.WaitsFor)
			}
		},
	},
	{
		"The head of the line is too large for an endpoint",
		"Smaller requests behind it use that endpoint",
		func(s *scene) {
			large, small := s.provider("large", always(healthy)), s.provider("small", always(healthy))
			q := s.model("m", large, llmqueue.WithLimits(llmqueue.TPM(1000).Per(time.Hour)))
			s.endpoint(q, small, llmqueue.WithLimits(llmqueue.TPM(100)))
			s.allServed(s.ask(q, 1, 0, llmqueue.Request[int]{Estimate: llmqueue.Usage{InputTokens: 990}}), "large", time.Second)
			_, err := q.Submit(s.Context(), llmqueue.Request[int]{ID: "head", NoWait: true, Estimate: llmqueue.Usage{InputTokens: 500}})
			require.NoError(s, err)
			s.allServed(s.ask(q, 5, 0, llmqueue.Request[int]{Estimate: llmqueue.Usage{InputTokens: 15}}), "small", time.Second)
			r, err := q.Wait(s.Context(), "head")
			require.NoError(s, err)
			assert.LessOrEqual(s, r.WaitTime(), time.Hour, "nothing put it off")
		},
	},
	{
		"An outage of 20 s",
		"Everything that was not given up is served within 10 s after it. Until then the provider gets few retries",
		func(s *scene) {
			const outage = 20 * time.Second
			p := s.provider("m", until(outage, failing, healthy))
			got := s.ask(s.model("m", p), 600, servedIn, llmqueue.Request[int]{}) // ten a second, for a minute
			n, why := got.failed()
			s.atMost(12, n, fmt.Sprint("requests failed of 600, the first with: ", why))
			assert.LessOrEqual(s, got[:200].last(), outage+10*time.Second, "the last answer to a request of the outage")
			assert.LessOrEqual(s, got.after(outage).slowest(), 10*time.Second, "the slowest answer to a later one")
			s.atMost(200+20+20+20, p.called(0, outage), "calls during the outage: 200 requests, 20 retries at once and one a second")
			s.atMost(100, p.called(outage, outage+5*servedIn), "calls in the first half second after it")
		},
	},
	{
		"A burst of 500s for 3 s under full load",
		"Full speed within seconds after it",
		func(s *scene) {
			p := s.provider("m", func(at time.Duration) reaction {
				if at >= time.Second && at < 4*time.Second {
					return failing
				}
				return healthy
			})
			q := s.model("m", p, llmqueue.WithLimits(llmqueue.Concurrent(100))) // a thousand a second
			got := s.ask(q, 10_000, 0, llmqueue.Request[int]{})
			n, why := got.failed()
			s.atMost(20, n, fmt.Sprint("requests failed of 10,000, the first with: ", why))
			assert.LessOrEqual(s, got.last(), 23*time.Second, "the last answer: ten seconds of work, three of outage and ten to recover")
		},
	},
	{
		"A stream breaks after a 200 and the SDK returns no error",
		"The attempt is not served. It is tried again or fails, by what the wire said",
		func(s *scene) {
			const fatal = `data: {"choices":[]}` + "\n\n" + `data: {"error":{"type":"invalid_request_error","message":"no"}}` + "\n\n"
			calls := 0
			p := s.provider("m", func(time.Duration) reaction {
				switch calls++; calls {
				case 1:
					return reaction{breaks: true}
				case 3:
					return reaction{body: fatal}
				}
				return healthy
			})
			q := s.model("m", p)
			got := s.ask(q, 1, 0, llmqueue.Request[int]{})
			s.allServed(got, "m", time.Second)
			assert.Equal(s, 2, got[0].attempts, "half an answer is none")
			got = s.ask(q, 1, 0, llmqueue.Request[int]{})
			assert.Error(s, got[0].err, "an error within a stream is no answer")
			assert.Equal(s, 3, calls, "and this one would come again")
		},
	},
	{
		"A request that used tokens falls back",
		"Each queue's events count what its own attempts used. Response.Usage is the sum",
		func(s *scene) {
			s.fallback("f")
			const broken = `data: {"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":3}}` + "\n\n" + `data: {"error":{"type":"server_error","message":"no"}}` + "\n\n"
			p := s.provider("m", always(reaction{body: broken, used: llmqueue.Usage{InputTokens: 7, OutputTokens: 3}}))
			q := s.model("m", p, llmqueue.WithFallback("f"), llmqueue.WithRetry(llmqueue.RetryPolicy{MaxAttempts: 1}))
			got := s.ask(q, 1, 0, llmqueue.Request[int]{Estimate: llmqueue.Usage{InputTokens: 4, OutputTokens: 2}})
			s.allServed(got, "f", time.Second)
			assert.EqualValues(s, 16, got[0].usage.Total(), "that of the response")
			synctest.Wait()
			s.mu.Lock()
			defer s.mu.Unlock()
			counted := map[string]int64{}
			for _, e := range s.events {
				if e.Type == llmqueue.EventCompleted {
					counted[e.ModelID] += e.Usage.Total()
				}
			}
			assert.Equal(s, map[string]int64{"m": 10, "f": 6}, counted, "those of the completed events")
		},
	},
}

// TestAvailability plays every situation of the guide's table twice, in virtual time: with
// llmhttp on the wire, and with errors that the processor marks by hand.
func TestAvailability(t *testing.T) {
	for _, c := range situations {
		t.Run(c.situation, func(t *testing.T) {
			t.Run("on the wire", func(t *testing.T) { inScene(t, true, c.play) })
			t.Run("marked by hand", func(t *testing.T) { inScene(t, false, c.play) })
		})
	}
}

// A healthy provider serves everything at once on either of the two ways, with its usage, so
// that what the rows show is the queue's doing.
func TestAvailabilityOfAHealthyProvider(t *testing.T) {
	for _, wire := range []bool{true, false} {
		inScene(t, wire, func(s *scene) {
			p := s.provider("m", always(healthy))
			got := s.ask(s.model("m", p), 20, time.Second, llmqueue.Request[int]{Estimate: llmqueue.Usage{InputTokens: 4, OutputTokens: 2}})
			s.allServed(got, "m", servedIn)
			assert.Equal(s, 20, p.total(), "calls")
			assert.EqualValues(s, 6, got[0].usage.Total(), "tokens")
		})
	}
}

// The guide has the table that the test plays: the same rows in the same words.
func TestAvailabilityGuide(t *testing.T) {
	guide, err := os.ReadFile("docs/guides/availability.md")
	require.NoError(t, err)
	_, table, found := strings.Cut(string(guide), "| Situation | What happens |\n|---|---|\n")
	require.True(t, found, "the guide has no table of situations")
	table, _, _ = strings.Cut(table, "\n\n")
	var want []string
	for _, c := range situations {
		want = append(want, "| "+c.situation+" | "+c.happens+" |")
	}
	assert.Equal(t, want, strings.Split(strings.ReplaceAll(table, "`", ""), "\n"))
}
