package main

import (
	"io"
	"os"
	"strings"
	"testing"

	"github.com/llmqueue/llmqueue/llmtest"
)

// The program answers, against a provider that speaks as the real one.
func TestItAnswers(t *testing.T) {
	srv := llmtest.NewServer(t, llmtest.OpenAI(llmtest.RPM(60)))
	t.Setenv("OPENAI_API_KEY", "no-key")
	t.Setenv("OPENAI_BASE_URL", srv.URL())
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout := os.Stdout
	os.Stdout = w
	main()
	os.Stdout = stdout
	_ = w.Close()
	out, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	if answer, found := strings.CutSuffix(string(out), " <nil>\n"); !found || answer == "" {
		t.Errorf("got %q, want an answer and no error", out)
	}
	if n := srv.Stats().Completed; n != 1 {
		t.Errorf("the provider answered %d calls, want 1", n)
	}
}

// README.md shows the program as it is, in at most 25 lines.
func TestReadmeShowsIt(t *testing.T) {
	program, err := os.ReadFile("quickstart.go")
	if err != nil {
		t.Fatal(err)
	}
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, body, _ := strings.Cut(string(program), "\nfunc main() {\n")
	body = "func main() {\n" + body
	if n := strings.Count(body, "\n"); n > 25 {
		t.Errorf("it has %d lines, want at most 25", n)
	}
	if !strings.Contains(string(readme), body) {
		t.Errorf("README.md does not show func main of quickstart.go as it is")
	}
}
