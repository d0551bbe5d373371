package llmhttp_test

import (
	"fmt"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"
)

// TestMain fails the run when a goroutine that runs this module's code is left behind.
// In another process that a test started it does that one's work instead.
func TestMain(m *testing.M) {
	if where := os.Getenv(workerEnv); where != "" {
		if err := work(where); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	code := m.Run()
	if left := leftGoroutines(); code == 0 && left != "" {
		fmt.Fprintf(os.Stderr, "goroutines left behind after all tests:\n%s\n", left)
		code = 1
	}
	os.Exit(code)
}

// leftGoroutines polls, because a goroutine that has done its work may still be on
// its way out.
func leftGoroutines() string {
	var left []string
	for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); runtime.Gosched() {
		buf := make([]byte, 1<<22)
		buf = buf[:runtime.Stack(buf, true)]
		left = nil
		for i, g := range strings.Split(string(buf), "\n\n") {
			if i > 0 && strings.Contains(g, "llmqueue/llmqueue") {
				left = append(left, g)
			}
		}
		if len(left) == 0 {
			return ""
		}
	}
	return strings.Join(left, "\n\n")
}
