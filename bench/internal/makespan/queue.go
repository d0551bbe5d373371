package makespan

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/openai/openai-go/v3/option"

	"github.com/llmqueue/llmqueue"
	"github.com/llmqueue/llmqueue/llmhttp"
)

var queueGiven = Contestant{
	Name:  "llmqueue",
	Setup: "the limits, and llmhttp's transport in the SDK's client",
	New: func(p Provider) (Ask, func() error, error) {
		return queue(p, llmqueue.WithLimits(
			llmqueue.RPM(p.Requests).Per(p.Period),
			llmqueue.TPM(p.Tokens).Per(p.Period)))
	},
}

var queueLearned = Contestant{
	Name:  "llmqueue, limits learned",
	Setup: "no limits: the transport reads them from the first answer",
	New: func(p Provider) (Ask, func() error, error) {
		return queue(p, llmqueue.WithLearnedLimits())
	},
}

// queueBurst is told that the provider counts in slices. In a slice at most
// Burst + Amount/parts is admitted, so that Amount leaves room for a Burst in each.
var queueBurst = Contestant{
	Name:  "llmqueue, with Burst",
	Setup: "a Burst of one request, and of the tokens of the largest one, and limits that leave room for it in each slice; the transport",
	New: func(p Provider) (Ask, func() error, error) {
		paced := func(l llmqueue.Limit, burst int64) llmqueue.Limit {
			l.Amount = max(l.Amount-parts*burst, burst)
			return l.Per(p.Period).WithBurst(burst)
		}
		return queue(p, llmqueue.WithLimits(
			paced(llmqueue.RPM(p.Requests), 1),
			paced(llmqueue.TPM(p.Tokens), p.Largest)))
	},
}

func queue(p Provider, limits llmqueue.Option) (Ask, func() error, error) {
	transport := llmhttp.NewTransport(restate{p.Server.Client().Transport, p.Announced})
	client := p.Client(option.WithHTTPClient(&http.Client{Transport: transport}), option.WithMaxRetries(0))
	q, err := llmqueue.NewQueue("gpt-4.1-mini", func(ctx context.Context, r llmqueue.Request[Question]) (struct{}, error) {
		_, err := chat(ctx, client, r.Params)
		if err == nil {
			// The provider gives nothing back of what it charged on arrival.
			llmqueue.ReportUsage(ctx, r.Params.usage())
		}
		return struct{}{}, err
	},
		limits,
		llmqueue.WithMargin(p.Margin),
		llmqueue.WithoutDeadlineCheck(), // the deadline is the measurement's
		llmqueue.WithEstimator(func(r llmqueue.Request[Question]) llmqueue.Usage { return r.Params.usage() }))
	if err != nil {
		return nil, nil, err
	}
	return func(ctx context.Context, question Question) error {
			_, err := q.Do(ctx, question)
			return err
		}, func() error {
			return q.Shutdown(context.Background())
		}, nil
}

// restate gives the limits that the provider announces a period. The headers of OpenAI
// name none, as everyone knows it to be a minute; that of this simulator is shorter, so
// that it has to be said, in the words of the IETF's draft. A provider that counts in
// slices announces what a slice holds.
type restate struct {
	base   http.RoundTripper
	period time.Duration
}

func (r restate) RoundTrip(req *http.Request) (*http.Response, error) {
	res, err := r.base.RoundTrip(req)
	if err != nil {
		return res, err
	}
	for _, unit := range []string{"Requests", "Tokens"} {
		take := func(name string) string {
			name = "X-Ratelimit-" + name + "-" + unit
			defer res.Header.Del(name)
			return res.Header.Get(name)
		}
		limit, remaining, reset := take("Limit"), take("Remaining"), take("Reset")
		if limit == "" {
			continue
		}
		res.Header.Add("Ratelimit-Policy", fmt.Sprintf("%q;q=%s;w=%g", unit, limit, r.period.Seconds()))
		d, _ := time.ParseDuration(reset)
		res.Header.Add("Ratelimit", fmt.Sprintf("%q;r=%s;t=%g", unit, remaining, d.Seconds()))
	}
	return res, nil
}
