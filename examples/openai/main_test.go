package main

import (
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/llmqueue/llmqueue/examples/internal/chat"
	"github.com/llmqueue/llmqueue/examples/internal/exampletest"
)

// runExample runs the program against the simulator and returns what it printed.
func runExample(t *testing.T, interrupt time.Duration, args ...string) (string, error) {
	t.Helper()
	return exampletest.Run(t, run, interrupt, args...)
}

// row returns the number that the final table has in a row.
func row(t *testing.T, out, name string) int {
	t.Helper()
	m := regexp.MustCompile(`(?m)^ *` + regexp.QuoteMeta(name) + ` +(\d+)\s*$`).FindStringSubmatch(out)
	if m == nil {
		t.Fatalf("no row %q in:\n%s", name, out)
	}
	n, err := strconv.Atoi(m[1])
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// The queue is never refused, whether it is told the limits or has to learn them, from
// OpenAI's own headers (a minute is a minute) or from those that name a shorter one; and
// it is about as fast as the limits allow. Who learns waits for the first answer.
func TestQueueIsNeverRefused(t *testing.T) {
	for _, minute := range []struct {
		name string
		args []string
		most float64 // of the minimum
	}{
		{"a second, wide margin", []string{"-period", "1s", "-margin", "400ms"}, 1.45},
		{"three seconds", nil, 1.03},
		{"a minute", []string{"-period", "1m", "-margin", "100ms"}, 1.03},
	} {
		for _, limits := range []struct {
			name string
			args []string
		}{
			{"requests bind", []string{"-rpm", "25", "-tpm", "100000"}},
			{"tokens bind", []string{"-rpm", "1000", "-tpm", "6000"}},
			{"both bind", nil},
			{"one at a time", []string{"-rpm", "1000", "-tpm", "100000", "-concurrency", "1"}},
		} {
			for _, how := range []struct {
				args []string
				more float64 // what is reserved for answers under way is more than they use
			}{
				{nil, 0}, {[]string{"-known"}, 0}, {[]string{"-charge", "used"}, 0.04},
			} {
				t.Run(strings.Join([]string{minute.name, limits.name, strings.Join(how.args, " ")}, "/"), func(t *testing.T) {
					out, err := runExample(t, 0, slices.Concat(minute.args, limits.args, how.args)...)
					if err != nil {
						t.Fatalf("%v\n%s", err, out)
					}
					for name, want := range map[string]int{
						"requests": 60, "accepted by the server": 60, "refused by the server": 0, "other faults": 0, "questions without an answer": 0,
					} {
						if got := row(t, out, name); got != want {
							t.Errorf("%s: %d, want %d\n%s", name, got, want, out)
						}
					}
					if !strings.Contains(out, "60 of 60 answered, 0 in flight, 0 waiting") {
						t.Errorf("the progress does not end with everything done:\n%s", out)
					}
					if learns := !slices.Contains(how.args, "-known"); strings.Contains(out, "limit learned") != learns {
						t.Errorf("limits learned: want %v\n%s", learns, out)
					}
					if got := ratio(t, out); got > minute.most+how.more {
						t.Errorf("%.3f times the minimum, want at most %.3f\n%s", got, minute.most+how.more, out)
					}
				})
			}
		}
	}
}

// A large limit is learned to the last request: the call that taught it counts too.
func TestLargeLimitIsLearnedExactly(t *testing.T) {
	in := filepath.Join(t.TempDir(), "in.jsonl")
	if err := os.WriteFile(in, []byte(strings.Repeat(`{"prompt":"Why?"}`+"\n", 250)), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := runExample(t, 0, "-input", in, "-rpm", "100", "-tpm", "1000000", "-concurrency", "200", "-period", "1m")
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]int{"accepted by the server": 250, "refused by the server": 0} {
		if got := row(t, out, name); got != want {
			t.Errorf("%s: %d, want %d\n%s", name, got, want, out)
		}
	}
}

// ratio returns the last row's wall time as a multiple of the minimum.
func ratio(t *testing.T, out string) float64 {
	t.Helper()
	m := regexp.MustCompile(`(?m)^wall time / minimum +([0-9.]+)$`).FindStringSubmatch(out)
	if m == nil {
		t.Fatalf("no ratio in:\n%s", out)
	}
	x, err := strconv.ParseFloat(m[1], 64)
	if err != nil {
		t.Fatal(err)
	}
	return x
}

func TestWithoutQueueIsRefused(t *testing.T) {
	out, err := runExample(t, 0, "-no-queue", "-rpm", "20", "-period", "1s")
	if err != nil {
		t.Fatal(err)
	}
	if got := row(t, out, "refused by the server"); got < 40 {
		t.Errorf("refused: %d, want at least the 40 that do not fit at first\n%s", got, out)
	}
	if accepted, missing := row(t, out, "accepted by the server"), row(t, out, "questions without an answer"); accepted+missing != 60 {
		t.Errorf("%d accepted and %d without an answer, want 60 together\n%s", accepted, missing, out)
	}
}

func TestInputAndOutput(t *testing.T) {
	dir := t.TempDir()
	in, outFile := filepath.Join(dir, "in.jsonl"), filepath.Join(dir, "out.jsonl")
	if err := os.WriteFile(in, []byte(`{"question":"What is 2+2?"}

{"prompt":"Say <hello>.","id":7}
`), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := runExample(t, 0, "-input", in, "-output", outFile, "-period", "1s")
	if err != nil {
		t.Fatal(err)
	}
	if got := row(t, out, "accepted by the server"); got != 2 {
		t.Errorf("accepted: %d, want 2\n%s", got, out)
	}
	written, err := os.ReadFile(outFile)
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(string(written), `"answer":"`); n != 2 || !strings.Contains(string(written), "What is 2+2?") {
		t.Errorf("want both questions with their answers, got:\n%s", written)
	}
}

func TestBadInput(t *testing.T) {
	dir := t.TempDir()
	file := func(content string) string {
		name := filepath.Join(dir, strconv.Itoa(len(content))+".jsonl")
		if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return name
	}
	for _, tt := range []struct {
		want string
		args []string
	}{
		{"no such file", []string{"-input", filepath.Join(dir, "missing.jsonl")}},
		{"no questions", []string{"-input", file("")}},
		{"line 2: not a JSON object", []string{"-input", file("{\"prompt\":\"a\"}\nprompt: b\n")}},
		{`line 1: no "question"`, []string{"-input", file(`{"text":"a"}`)}},
		{"-rpm", []string{"-rpm", "0"}},
		{"-period", []string{"-period", "-1s"}},
		{"-charge", []string{"-charge", "twice"}},
		{"invalid value", []string{"-tpm", "many"}},
		{"not defined", []string{"-key", "x"}},
		{"unexpected argument", []string{"questions.jsonl"}},
		{"-output", []string{"-output", filepath.Join(dir, "missing", "out.jsonl")}},
	} {
		_, err := runExample(t, 0, tt.args...)
		if err == nil || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%v: want one line with %q, got %v", tt.args, tt.want, err)
		}
	}
}

// A question that is larger than the limit of tokens can never be sent: it is
// refused by the queue, not by the server, and the others are answered.
func TestTooLarge(t *testing.T) {
	in := filepath.Join(t.TempDir(), "in.jsonl")
	large := `{"prompt":"` + strings.Repeat("word ", 400) + `"}`
	if err := os.WriteFile(in, []byte(`{"prompt":"a"}`+"\n"+large+"\n"+`{"prompt":"b"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := runExample(t, 0, "-input", in, "-tpm", "300", "-period", "100ms", "-margin", "200ms", "-max-tokens", "20")
	if err == nil || !strings.Contains(err.Error(), "the limit is 300 tpm") {
		t.Errorf("want an error that names the limit, got %v", err)
	}
	for name, want := range map[string]int{
		"accepted by the server": 2, "refused by the server": 0, "questions without an answer": 1,
	} {
		if got := row(t, out, name); got != want {
			t.Errorf("%s: %d, want %d\n%s", name, got, want, out)
		}
	}
}

func TestInterrupt(t *testing.T) {
	out, err := runExample(t, 30*time.Minute, "-period", "1h", "-rpm", "10")
	if err == nil || !strings.Contains(err.Error(), "10 of 60 questions were answered") {
		t.Errorf("want an error that says how far it came, got %v", err)
	}
	if got := row(t, out, "questions without an answer"); got != 50 {
		t.Errorf("without an answer: %d, want the 50 that had no turn\n%s", got, out)
	}
}

// What is about the simulator is not silently ignored when the real service answers.
func TestFlagsOfTheSimulator(t *testing.T) {
	t.Setenv(chat.KeyVariable, "any")
	for _, tt := range []struct {
		args []string
		want string
	}{
		{[]string{"-rpm", "500"}, "-rpm"},
		{[]string{"-tpm", "500"}, "-tpm"},
		{[]string{"-period", "6s"}, "-period"},
		{[]string{"-known", "-rpm", "500", "-tpm", "500"}, ""},
		{[]string{"-no-queue", "-rpm", "500"}, ""},
		{nil, ""},
	} {
		_, err := parse(tt.args, io.Discard)
		if (err != nil) != (tt.want != "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%v: error %v, want %q", tt.args, err, tt.want)
		}
	}
}

// The first example that a newcomer runs compiles its own SDK and none of the others.
func TestCompilesOneSDK(t *testing.T) {
	list := exec.CommandContext(t.Context(), "go", "list", "-deps", ".")
	list.Env = append(os.Environ(), "GOWORK=")
	deps, err := list.Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, heavy := range []string{
		"github.com/Azure/", "github.com/anthropics/", "github.com/aws/", "github.com/ollama/", "google.golang.org/genai",
		"github.com/tmc/", "github.com/riverqueue/", "github.com/redis/", "go.opentelemetry.io/",
	} {
		for dep := range strings.Lines(string(deps)) {
			if strings.HasPrefix(dep, heavy) {
				t.Errorf("go run ./examples/openai compiles %s", dep)
			}
		}
	}
}

func TestMinimum(t *testing.T) {
	const s = time.Second
	calls := func(n int, tokens int64, latency time.Duration) []call {
		c := make([]call, n)
		for i := range c {
			c[i] = call{tokens, latency}
		}
		return c
	}
	for _, tt := range []struct {
		name        string
		calls       []call
		rpm, tpm    int64
		concurrency int
		want        time.Duration
	}{
		{"nothing", nil, 1, 1, 1, 0},
		{"all at once", calls(10, 1, s), 10, 10, 10, s},
		{"requests: the 25th starts at floor(24/10) periods", calls(25, 1, s), 10, 1000, 100, 121 * s},
		{"a full last window", calls(30, 1, s), 10, 1000, 100, 121 * s},
		{"tokens: three fit in a period", calls(7, 30, s), 100, 100, 100, 121 * s},
		{"uneven tokens keep the order", []call{{60, s}, {60, s}, {40, s}, {1, s}}, 100, 100, 100, 121 * s},
		{"concurrency", calls(10, 1, s), 100, 1000, 2, 5 * s},
		{"calls longer than the window", calls(2, 1, 100*s), 1, 10, 10, 160 * s},
		{"the longest latency ends last", []call{{1, 90 * s}, {1, s}}, 10, 10, 10, 90 * s},
	} {
		if got := minimum(tt.calls, tt.rpm, tt.tpm, tt.concurrency, time.Minute); got != tt.want {
			t.Errorf("%s: %v, want %v", tt.name, got, tt.want)
		}
	}
}

func TestSample(t *testing.T) {
	questions, err := readQuestions("")
	if err != nil {
		t.Fatal(err)
	}
	if len(questions) != 60 {
		t.Errorf("%d questions, want 60", len(questions))
	}
}
