package llmhttp_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/llmqueue/llmqueue"
	"github.com/llmqueue/llmqueue/llmhttp"
)

// recorded is an answer as a provider's documentation or a user's report has it, retold: ids,
// keys and names are invented. Adding a provider begins with one.
type recorded struct {
	Kind, Name, Source string
	Status             int
	Headers, Body      string
	Want               llmqueue.Outcome // what the queue has to see; empty: not looked at
	Wait               *string          // how long nothing may start; nil: not looked at
	WantLimits         *string          `json:"want_limits"`
	WantUsage          *struct {
		Input       int64 `json:"input"`
		Output      int64 `json:"output"`
		CachedInput int64 `json:"cached_input"`
	} `json:"want_usage"`
	Sure *bool // false: others would judge otherwise
}

// Times in recorded answers stand for so much after now, in the way that is named.
var recordedTime = regexp.MustCompile(`@(rfc3339|unix|ms|http|min|sec)\+((?:\d+(?:\.\d+)?(?:ms|h|m|s))+)`)

func atTimes(s string, now time.Time) string {
	return recordedTime.ReplaceAllStringFunc(s, func(token string) string {
		m := recordedTime.FindStringSubmatch(token)
		d, err := time.ParseDuration(m[2])
		if err != nil {
			panic(err)
		}
		at := now.Add(d).UTC()
		switch m[1] {
		case "rfc3339":
			return at.Format(time.RFC3339)
		case "unix":
			return fmt.Sprint(at.Unix())
		case "ms":
			return fmt.Sprint(at.UnixMilli())
		case "http":
			return at.Format(http.TimeFormat)
		case "min":
			return at.Format("2006-01-02 at 15:04")
		}
		return at.Format("2006-01-02 15:04:05")
	})
}

func recordedAnswers(t testing.TB) []recorded {
	t.Helper()
	f, err := os.Open("testdata/answers.jsonl")
	require.NoError(t, err)
	defer f.Close()
	var all []recorded
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var r recorded
		require.NoError(t, json.Unmarshal(lines.Bytes(), &r))
		require.NotEmpty(t, r.Source, r.Name)
		all = append(all, r)
	}
	require.NoError(t, lines.Err())
	return all
}

// What providers really say is understood: what it means, how long to wait, which limits there
// are and what was used.
func TestRecordedAnswers(t *testing.T) {
	for _, r := range recordedAnswers(t) {
		t.Run(r.Kind+"/"+r.Name, func(t *testing.T) {
			now := time.Now()
			o := observedOf(t, r.Status, header(atTimes(r.Headers, now)), atTimes(r.Body, now))
			if r.Want != "" {
				assert.Equal(t, r.Want, o.Outcome, "%s\n%s", r.Headers, r.Body)
			}
			if r.Wait != nil {
				want, err := time.ParseDuration(*r.Wait)
				require.NoError(t, err)
				inexact := 2 * time.Second // of dates without fractions
				if strings.Contains(r.Body, "@min") {
					inexact = time.Minute + time.Second
				}
				assert.InDelta(t, want, o.Delay, float64(inexact), "%s\n%s", r.Headers, r.Body)
				if want == 0 {
					assert.Zero(t, o.Delay, "%s\n%s", r.Headers, r.Body)
				}
			}
			if r.WantLimits != nil {
				assert.ElementsMatch(t, strings.Split(*r.WantLimits, ", "), strings.Split(limitWords(o.Limits), ", "), r.Headers)
			}
			if r.WantUsage != nil {
				assert.Equal(t, used(r.WantUsage.Input, r.WantUsage.Output, r.WantUsage.CachedInput), o.Usage, r.Body)
			}
		})
	}
}

// observedOf is what a queue's processor is told of an answer that it reads to its end.
func observedOf(t *testing.T, status int, headers http.Header, body string) (o llmqueue.Observation) {
	t.Helper()
	client := &http.Client{Transport: llmhttp.NewTransport(answers(func() *http.Response {
		res := response(status, "", strings.NewReader(body))
		res.Header = headers
		return res
	}))}
	q := newQueue(t, func(ctx context.Context) (string, error) {
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://provider.example/v1", strings.NewReader("{}"))
		require.NoError(t, err)
		res, err := client.Do(req)
		require.NoError(t, err)
		require.NoError(t, drain(t, res))
		o = llmqueue.Observed(ctx)
		llmqueue.Observe(ctx, llmqueue.Observation{Outcome: llmqueue.OutcomeServed}) // once is enough
		return "", nil
	})
	_, err := q.Submit(t.Context(), llmqueue.Request[string]{})
	require.NoError(t, err)
	return o
}

// limitWords writes limits as recorded answers do.
func limitWords(limits []llmqueue.ObservedLimit) string {
	var words []string
	for _, l := range limits {
		w := fmt.Sprintf("%d %s", l.Amount, l.Kind)
		if l.Period != 0 && l.Period != time.Minute && l.Period != day {
			w += fmt.Sprintf(" per %v", l.Period)
		}
		words = append(words, w)
	}
	slices.Sort(words)
	return strings.Join(words, ", ")
}
