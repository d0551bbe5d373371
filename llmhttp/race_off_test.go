//go:build !race

package llmhttp_test

// raceEnabled tells that memory is not what it is without the race detector.
const raceEnabled = false
