package sdktest

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/llmqueue/llmqueue/llmtest"
)

// serve starts a server in memory whose answers have 12 tokens, the first after
// a second and one more every 100 ms.
func serve(t *testing.T, p llmtest.Provider, opts ...llmtest.Option) *llmtest.Server {
	t.Helper()
	return llmtest.NewServer(t, p, append([]llmtest.Option{
		llmtest.InMemory(),
		llmtest.WithKey("secret"),
		llmtest.WithOutputTokens(12, 0),
		llmtest.WithLatency(llmtest.Latency{FirstToken: time.Second, PerToken: 100 * time.Millisecond}),
	}, opts...)...)
}

const (
	answerTime = time.Second + 11*100*time.Millisecond
	question   = "wordwordwordword" // four tokens
)

// inBubble runs a test in virtual time. A bubble waits for its goroutines, so
// that neither the server nor an SDK can leave one behind.
func inBubble(t *testing.T, name string, test func(t *testing.T)) {
	t.Run(name, func(t *testing.T) { synctest.Test(t, test) })
}

// took checks how long something took in virtual time.
func took(t *testing.T, since time.Time, want time.Duration) {
	t.Helper()
	if got := time.Since(since); got != want {
		t.Errorf("it took %v, want %v", got, want)
	}
}

// wantWords checks a text's length: a word is a token.
func wantWords(t *testing.T, text string, n int) {
	t.Helper()
	if got := len(strings.Fields(text)); got != n {
		t.Errorf("%q has %d words, want %d", text, got, n)
	}
}
