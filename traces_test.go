package llmqueue_test

import (
	"cmp"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

var updateTraces = flag.Bool("update-traces", false, "write testdata/traces anew instead of comparing with it")

// TestTraces plays random stories and compares, for each request, what its users saw with
// what they saw when the trace was recorded: the events in order with their instants,
// and the final response; for each queue, what happened to it and its counts at the end.
// So a change of how queues work inside shows itself where it changes what they do. What they
// decide at random is the same in each run: between endpoints with the same load, say.
//
// The traces stand in testdata/traces, one line for each request. After a change that is
// meant, go test -run TestTraces -update-traces . writes them anew; read the difference.
//
// What no story does, because it would have recorded a fault or is not the queue's to
// decide, stands in leftOut.
func TestTraces(t *testing.T) {
	t.Cleanup(func() {
		if t.Failed() {
			for what, why := range leftOut {
				t.Logf("no story has %s: %s", what, why)
			}
		}
	})
	for _, theme := range themes {
		t.Run(theme.name, func(t *testing.T) {
			file := filepath.Join("testdata", "traces", theme.name+".txt")
			var all []trace
			for n := range theme.stories {
				p := writePlot(theme.name, theme.write, uint64(n))
				var lines []string
				synctest.Test(t, func(t *testing.T) { lines = p.play(t) })
				all = append(all, trace{fmt.Sprintf("%s %d", theme.name, n), lines})
			}
			if *updateTraces {
				require.NoError(t, os.MkdirAll(filepath.Dir(file), 0o755))
				require.NoError(t, os.WriteFile(file, []byte(formatTraces(all)), 0o644))
				return
			}
			recorded, err := os.ReadFile(file)
			require.NoError(t, err, "run go test -run TestTraces -update-traces . once")
			want := parseTraces(string(recorded))
			require.Len(t, want, len(all), "%s holds other stories", file)
			differences := 0
			for i, got := range all {
				require.Equal(t, want[i].story, got.story)
				for _, d := range compareTraces(want[i], got) {
					if differences++; differences <= 12 {
						t.Error(d)
					}
				}
			}
			assert.LessOrEqual(t, differences, 12, "differences in all; the first twelve are shown")
		})
	}
}

// leftOut says what the stories avoid, and why.
var leftOut = map[string]string{
	"a shared set in a queue with several endpoints":             "a request that was refused there and started elsewhere kept its place in the set's line when the traces were recorded",
	"windows of a queue's own beside a shared set":               "two of the same period open in one instant for two queues, and whose timer comes first is the scheduler's",
	"estimators that take time, and fallbacks that fail at once": "a request that was called back on its way to a fallback ran there nevertheless, and a late arrival hid where it was",
	"coalesced requests with a MaxWait and a fallback":           "the MaxWait did not reach the fallback",
	"SetLimits that takes a kind of limit out and puts it back":  "the limit started empty although the other windows knew the count",
	"Retryable with a backoff worth the name":                    "it is random: those marked have a backoff of a nanosecond at most, where nothing waits for the slot; other passing faults come with the provider's delay",
	"MaxWait or a deadline that ends in the instant of a start":  "which of the two comes first is nobody's promise: instants are random microseconds",
	"a quota that is exhausted at a fallback":                    "what waits there comes home at once, each on its own, and goes on to the next model in an order that is the scheduler's",
	"a Shutdown of several queues at the same time":              "whose requests end first is left to the scheduler: they are shut down one after the other",
	"forecasts (Position, EstimatedStart, WaitsFor)":             "they are guesses, and better ones are no fault",
}

// trace is what was seen of one story, line by line.
type trace struct {
	story string
	lines []string
}

func formatTraces(all []trace) string {
	var b strings.Builder
	for _, s := range all {
		fmt.Fprintf(&b, "== %s\n", s.story)
		for _, l := range s.lines {
			b.WriteString(l + "\n")
		}
	}
	return b.String()
}

func parseTraces(text string) (all []trace) {
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		if name, ok := strings.CutPrefix(line, "== "); ok {
			all = append(all, trace{story: name})
		} else if n := len(all); n > 0 {
			all[n-1].lines = append(all[n-1].lines, line)
		}
	}
	return all
}

// compareTraces says in sentences how got differs from want.
func compareTraces(want, got trace) (differences []string) {
	who := func(line string) string { return strings.SplitN(line, " ", 2)[0] }
	wanted := map[string]string{}
	for _, l := range want.lines {
		wanted[who(l)] = l
	}
	for _, l := range got.lines {
		w, ok := wanted[who(l)]
		delete(wanted, who(l))
		if w == l {
			continue
		}
		if !ok {
			differences = append(differences, fmt.Sprintf("story %q: %s is new:\n  %s", want.story, who(l), l))
			continue
		}
		was, is := strings.Split(w, " | "), strings.Split(l, " | ")
		i := 0
		for i < min(len(was), len(is)) && was[i] == is[i] {
			i++
		}
		part := func(parts []string) string {
			if i < len(parts) {
				return cmp.Or(parts[i], "nothing")
			}
			return "nothing more"
		}
		differences = append(differences, fmt.Sprintf("story %q, %s (%s):\n  a user saw       %s\n  and would see    %s\n  after            %s\n  all of it before %s\n  all of it now    %s",
			want.story, who(l), strings.SplitN(was[0], " ", 2)[0], part(was), part(is), strings.Join(is[:i], " | "), w, l))
	}
	for _, l := range want.lines {
		if w, ok := wanted[who(l)]; ok {
			differences = append(differences, fmt.Sprintf("story %q: nothing is seen any more of\n  %s", want.story, w))
		}
	}
	return differences
}
