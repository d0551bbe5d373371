package llmqueue_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/llmqueue/llmqueue"
)

// A limit that is taken out and put back knows what was started meanwhile and before, as far
// as the windows that stayed know it. A user would be refused by his provider: twenty
// requests in a minute that allows ten.
func TestLimitPutBackKnowsWhatTheOthersKnow(t *testing.T) {
	for name, stays := range map[string]llmqueue.Limit{
		"tokens of the same minute": llmqueue.TPM(1_000_000),
		"tokens of a day":           llmqueue.TPD(1_000_000),
		"input of the same minute":  llmqueue.ITPM(1_000_000),
		"requests of a day":         llmqueue.RPD(1_000_000),
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				begin, started := time.Now(), 0
				q := open(t, give, llmqueue.WithLimits(llmqueue.RPM(10), stays), llmqueue.WithMargin(0), llmqueue.WithObserver(func(e llmqueue.Event) {
					if e.Type == llmqueue.EventStarted && e.Time.Sub(begin) < time.Minute {
						started++
					}
				}))
				sized := llmqueue.Request[int]{Estimate: llmqueue.Usage{InputTokens: 1}}
				for range 10 {
					send(t, q, sized)
				}
				time.Sleep(time.Second)
				require.NoError(t, q.SetLimits(stays))
				time.Sleep(time.Second)
				require.NoError(t, q.SetLimits(llmqueue.RPM(10), stays))
				for range 10 {
					send(t, q, sized)
				}
				time.Sleep(2 * time.Minute)
				assert.Equal(t, 10, started, "requests started in a minute under RPM(10)")
			})
		})
	}
}
