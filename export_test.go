package llmqueue

// RaceEnabled is raceEnabled for the tests that use the exported API alone.
const RaceEnabled = raceEnabled
