package main

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Every fault is in the code as it is now: a change of the code changes the list.
func TestFaultsFitTheCode(t *testing.T) {
	root, err := moduleRoot()
	require.NoError(t, err)
	require.NoError(t, checkAnchors(root, faults))
	assert.ErrorContains(t, checkAnchors(root, []fault{{file: "internal/engine/engine.go", old: "nowhere at all", new: "x"}}), "fault 1: its text is in internal/engine/engine.go 0 times")
	assert.Len(t, faults, 104)
	seen := map[string]bool{}
	for _, f := range faults {
		assert.NotEmpty(t, f.notice)
		assert.False(t, seen[f.notice], "listed twice: %s", f.notice)
		seen[f.notice] = true
	}
}

func TestNoticedBy(t *testing.T) {
	assert.Equal(t, "TestA", noticedBy("x\n--- FAIL: TestA (0.1s)\n--- FAIL: TestB (0.1s)\n"))
	assert.Equal(t, "index out of range", noticedBy("panic: index out of range\n\ngoroutine 1"))
	assert.Equal(t, "TestC: test timed out", noticedBy("panic: test timed out\n\trunning tests:\n\t\tTestC (90s)\n"))
	assert.Equal(t, "it failed", noticedBy("exit status 1"))
}
