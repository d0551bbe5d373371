//go:build !race

package plan

// raceEnabled shrinks what the race detector makes slow.
const raceEnabled = false
