package llmqueue_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/llmqueue/llmqueue"
)

// TestWhatAnOutageCosts measures, in virtual time, what docs/guides/availability.md says of
// outages: ten requests a second to a model that answers in 100 ms, of which all calls fail at
// once for a while. It prints the rows of the guide's table; the backoffs are random, so the
// figures differ a little from run to run.
func TestWhatAnOutageCosts(t *testing.T) {
	if testing.Short() || llmqueue.RaceEnabled {
		t.Skip("an outage of an hour is 36,000 requests")
	}
	rows := []string{"| Outage | Fallback | Answered | Median | Slowest | Last one after its end | Calls to the model meanwhile |", "|---|---|---|---|---|---|---|"}
	for _, outage := range []time.Duration{20 * time.Second, 2 * time.Minute, time.Hour} {
		for _, fallback := range []string{"none", "healthy"} {
			inScene(t, false, func(s *scene) {
				const before, after = 10 * time.Second, time.Minute
				p := s.provider("m", func(at time.Duration) reaction {
					if at >= before && at < before+outage {
						return failing
					}
					return healthy
				})
				var opts []llmqueue.Option
				if fallback != "none" {
					s.fallback("f")
					opts = append(opts, llmqueue.WithFallback("f"))
				}
				all := s.ask(s.model("m", p, opts...), int((before+outage+after)/servedIn), servedIn, llmqueue.Request[int]{})
				hit := all.after(before)
				hit = hit[:int(outage/servedIn)]
				failed, _ := hit.failed()
				rows = append(rows, fmt.Sprintf("| %s | %s | %d of %d | %s | %s | %s | %d |", short(outage), fallback, len(hit)-failed, len(hit),
					short(hit.quantile(0.5)), short(hit.slowest()), short(max(hit.last()-before-outage, 0)), p.called(before, before+outage)))
				failed, _ = all.after(before + outage + 10*time.Second).failed()
				assert.Zero(s, failed, "requests failed that came 10 s after an outage of %v or later", outage)
			})
		}
	}
	t.Log("\n" + strings.Join(rows, "\n"))
}

// short writes a duration for a table: 20 s, 2 min, 1 h.
func short(d time.Duration) string {
	switch {
	case d < time.Second:
		return fmt.Sprintf("%.2g s", d.Seconds())
	case d < time.Minute:
		return fmt.Sprintf("%.3g s", d.Seconds())
	case d < time.Hour:
		return fmt.Sprintf("%.3g min", d.Minutes())
	}
	return fmt.Sprintf("%.3g h", d.Hours())
}
