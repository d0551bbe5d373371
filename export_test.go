package llmqueue

// RaceEnabled is raceEnabled for the tests that use the exported API alone.
const RaceEnabled = raceEnabled

// WithSeed makes what a queue decides at random the same in each run.
func WithSeed(seed uint64) Option { return Option{func(s *settings) { s.seed = seed }} }
