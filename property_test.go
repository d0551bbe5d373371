package llmqueue

import (
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"

	"github.com/llmqueue/llmqueue/internal/model"
)

// TestQueueDoesWhatTheModelDoes plays random stories to a queue and to a brute-force
// model, which the engine alone is compared with as well: arrivals, sizes known and unknown, refunds, overruns, calls longer than their
// windows, retries, provider pauses, manual ones, cancelations, callers that leave, new
// limits, revised usage. Every
// attempt must start in the model's order at the model's instant (so no limit is
// exceeded by charges known then, and no startable head waits), every request must end
// once, as in the model, and each look at a limit must show the model's sum, so that
// reserved = settled + refunded + in flight.
//
// Each of these faults was put into the root, internal/window or internal/line on
// purpose, and each made it fail:
//
// Who may start, and when the queue looks again
//   - one attempt more than the slots runs
//   - a request starts during a provider's pause, or during a manual one
//   - a pause lasts a nanosecond longer, or a later and shorter one cuts it short
//   - what a canceled attempt's provider said is lost
//   - a new request overtakes the line
//   - a head that can never start blocks the line
//   - nothing starts after an attempt returned, a Cancel, a caller that left, an
//     UpdateUsage, a SetLimits, a Resume, a MaxWait that passed, or a new head
//   - no timer for MaxWait, for MaxWait of who is not the head, for a retry, or for the
//     end of a pause
//   - the timer is not moved forward, is not armed again, or fires a nanosecond late
//
// Sizes that are unknown
//   - they take nothing, or all, before the first one tells
//   - one that failed without a report keeps what it was taken for
//   - one that was served without a report leaves all others taken for that
//   - the mean is rounded down, or not brought under the limits
//   - a corrected report counts twice, or a second attempt replaces the first in the mean
//
// The life of a request
//   - Cancel ends a finished request again, an attempt that returns ends a canceled one
//   - a canceled request stays in line, or its processor's context is not canceled
//   - the slot of an abandoned attempt is never given back, or given back too early
//   - one attempt too many, a retry returns early, or at the end of the line
//   - a refusal counts as an attempt, or loses the request its place
//   - who is refused again does not let others try first
//   - all that waits comes at once after a pause, or too little of it
//   - a panic with a marked error is tried again
//   - MaxWait ends a request that waits for its second attempt
//   - usage is a new entry of now, an overrun is dropped, a retried attempt is not
//     settled, or settled in the entry of the first
//   - UpdateUsage is ignored for who waits, runs or ended, or leaves its share as it was
//   - UpdateUsage and SetLimits leave in line what can never start
//
// The windows
//   - a charge leaves when its age exceeds the hold, not when it equals it
//   - a full limit refuses what fits exactly
//   - one more than the amount fits
//   - the margin is ignored
//   - only the first window is asked
//   - the last window is not charged
//   - a refund is a new entry of today
//   - a refund is dropped
//   - an overrun is dropped
//   - an overrun of a charge that left is dropped
//   - an overrun of a charge that left is charged whole, not what exceeds it
//   - the highest figure so far is forgotten: a later overrun is charged twice
//   - settling again starts from the reservation, not from the last figure
//   - a refund of a charge that left makes room
//   - input and output are swapped
//   - tokens are input only
//   - room is expected one entry late
//   - a limit of the same identity starts empty
//   - a new period starts empty
//   - a new period starts from the shortest window of its kind
//   - a new kind starts empty
//   - the entry looked for is the next one
//   - a ring that grows keeps the slots of the old one
//
// The line
//   - the lowest priority starts first
//   - last come first served
//   - virtual time stands still
//   - a tenant that joins is given credit for its idleness
//   - the next head of a tenant starts from its old time
//   - costs are ignored
//   - of equal tags the later arrival goes first
//   - the heap is not restored after a start
//   - who cancels its head keeps the tag of it
//   - a revised estimate does not change the tag
//   - a retry goes to the end of its tenant
//   - retries return in order of returning, not of arrival
//   - a retry charges its tenant's virtual time
//   - removing a retry removes the first of them
//   - slots that are gone are not skipped
//   - gaps are miscounted when they close
//   - a canceled request stays in the count
//   - a tenant that left is remembered as the last one used
//   - a tag may fall behind virtual time
func TestQueueDoesWhatTheModelDoes(t *testing.T) {
	seeds := 600
	switch {
	case testing.Short():
		seeds = 60
	case raceEnabled:
		seeds = 200
	}
	for seed := range uint64(seeds) {
		playSeed(t, seed)
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}

func playSeed(t *testing.T, seed uint64) {
	s := model.Tell(seed)
	var out *model.Seen
	var info QueueInfo
	synctest.Test(t, func(t *testing.T) { out, info = play(t, s) })
	if fault := s.Compare(out); fault != "" {
		t.Errorf("limits %v, margin %v: %s", s.Limits, s.Margin, fault)
	}
	require.EqualValues(t, len(out.Ends), info.Accepted)
}
