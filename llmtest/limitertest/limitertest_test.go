package limitertest_test

import (
	"testing"

	"github.com/llmqueue/llmqueue"
	"github.com/llmqueue/llmqueue/llmtest/limitertest"
)

func TestSharedLimits(t *testing.T) {
	limitertest.Run(t, func(_ *testing.T, limits ...llmqueue.Limit) func() llmqueue.SharedLimiter {
		l := llmqueue.NewSharedLimits(limits...)
		return func() llmqueue.SharedLimiter { return l }
	})
}
