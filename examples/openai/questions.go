package main

import (
	"bufio"
	"bytes"
	_ "embed"
	"encoding/json"
	"io"
	"os"

	"github.com/llmqueue/llmqueue/examples/internal/program"
)

//go:embed testdata/questions.jsonl
var sample []byte

// readQuestions returns the questions of a JSONL file, or of the built-in sample
// when file is empty.
func readQuestions(file string) ([]string, error) {
	if file == "" {
		return parseQuestions("the sample", bytes.NewReader(sample))
	}
	f, err := os.Open(file)
	if err != nil {
		return nil, program.BadInput("-input: %w", err)
	}
	defer f.Close()
	return parseQuestions(file, f)
}

// maxLine is the longest line that an input file may have.
const maxLine = 16 << 20

// parseQuestions reads one JSON object a line and takes its "question" or
// "prompt". Empty lines are skipped.
func parseQuestions(name string, r io.Reader) ([]string, error) {
	var questions []string
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, maxLine)
	n := 0
	for lines.Scan() {
		n++
		line := bytes.TrimSpace(lines.Bytes())
		if len(line) == 0 {
			continue
		}
		var row struct{ Question, Prompt string }
		if err := json.Unmarshal(line, &row); err != nil {
			return nil, program.BadInput("%s, line %d: not a JSON object: %w", name, n, err)
		}
		switch {
		case row.Question != "":
			questions = append(questions, row.Question)
		case row.Prompt != "":
			questions = append(questions, row.Prompt)
		default:
			return nil, program.BadInput(`%s, line %d: no "question" and no "prompt" in it`, name, n)
		}
	}
	if err := lines.Err(); err != nil {
		return nil, program.BadInput("%s, line %d: %w", name, n+1, err)
	}
	if len(questions) == 0 {
		return nil, program.BadInput("%s: no questions in it", name)
	}
	return questions, nil
}
