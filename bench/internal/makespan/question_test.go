package makespan

import (
	"strings"
	"testing"
	"time"
)

func TestRead(t *testing.T) {
	got, err := Read(strings.NewReader("{\"question\":\"How many?\",\"answer\":\"3\"}\n\n{\"prompt\":\"Why?\"}\n"))
	if err != nil || len(got) != 2 || !strings.HasPrefix(got[0].Prompt, "How many?\n") || !strings.HasPrefix(got[1].Prompt, "Why?\n") {
		t.Errorf("%+v, %v", got, err)
	}
	if got[0].MaxTokens != 64+3*3 {
		t.Errorf("room for %d tokens, want 64 and three for each of the question's three", got[0].MaxTokens)
	}
	for input, want := range map[string]string{
		"":                             "no questions in it",
		"{\"question\":\"a\"}\nwhat\n": "line 2: not a JSON object",
		"{\"answer\":\"a\"}\n":         `line 1: no "question" and no "prompt" in it`,
	} {
		if _, err := Read(strings.NewReader(input)); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%q: %v, want %s", input, err, want)
		}
	}
}

func TestSampleIsSixtyQuestionsOfAllLengths(t *testing.T) {
	sample := Sample()
	seen := make(map[string]bool)
	shortest, longest := sample[0].tokens(), int64(0)
	for _, q := range sample {
		seen[q.Prompt] = true
		shortest, longest = min(shortest, q.tokens()), max(longest, q.tokens())
		if strings.Contains(q.Prompt, "%!") {
			t.Errorf("a pattern does not take its numbers: %s", q.Prompt)
		}
	}
	if len(sample) != 60 || len(seen) != 60 || longest < 2*shortest {
		t.Errorf("%d questions, %d different ones, of %d to %d tokens", len(sample), len(seen), shortest, longest)
	}
}

// The limits leave room for every call in a slice, and the questions fill the periods.
func TestLimitsFitTheQuestions(t *testing.T) {
	for _, n := range []int{1, 24, 60} {
		for _, periods := range []int64{1, 3, 11} {
			questions := Sample()[:n]
			l := LimitsFor(questions, 6*time.Second, periods)
			var sum, largest int64
			for _, q := range questions {
				sum, largest = sum+q.tokens(), max(largest, q.tokens())
			}
			if l.Requests*periods < int64(n) || l.Requests*periods > int64(n)+2*parts*periods || l.Requests%parts != 0 {
				t.Errorf("%d questions in %d periods: %d requests per period", n, periods, l.Requests)
			}
			if l.Tokens/parts < largest || l.Tokens*periods < sum || l.Tokens%parts != 0 {
				t.Errorf("%d questions of %d tokens, the largest %d, in %d periods: %d tokens per period", n, sum, largest, periods, l.Tokens)
			}
		}
	}
}
