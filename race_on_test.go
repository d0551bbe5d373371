//go:build race

package llmqueue

// raceEnabled shrinks what the race detector makes slow.
const raceEnabled = true
