package llmtest_test

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/llmqueue/llmqueue/llmtest"
)

func TestDraftHeaders(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := llmtest.NewServer(t, llmtest.OpenAI(llmtest.RPM(2).Per(5*time.Second), llmtest.TPM(1000)), llmtest.InMemory(),
			llmtest.WithDraftHeaders(), llmtest.WithStrategy(llmtest.SlidingWindow))
		for _, state := range []string{`"requests0";r=1;t=5, "tokens1";r=989;t=60`, `"requests0";r=0;t=5, "tokens1";r=978;t=60`, `"requests0";r=0;t=5, "tokens1";r=978;t=60`} {
			res, err := srv.Client().Post(srv.URL()+"/chat/completions", "application/json",
				strings.NewReader(`{"model":"m","messages":[{"role":"user","content":"word"}],"max_tokens":10}`))
			require.NoError(t, err)
			require.NoError(t, res.Body.Close())
			require.Equal(t, `"requests0";q=2;w=5, "tokens1";q=1000;w=60`, res.Header.Get("RateLimit-Policy"))
			require.Equal(t, state, res.Header.Get("RateLimit"))
			require.Empty(t, res.Header.Get("X-Ratelimit-Limit-Requests"), "instead of the provider's own")
		}
		require.EqualValues(t, 1, srv.Stats().Refused)
	})
}
