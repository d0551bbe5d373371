package main

import (
	"encoding/json"
	"errors"
	"os"

	"github.com/llmqueue/llmqueue/examples/internal/program"
)

// answerFile takes down questions and answers as JSONL. A nil one takes down
// nothing. It is not safe for concurrent use.
type answerFile struct {
	file *os.File
	err  error // the first of the writes that failed
}

func newAnswerFile(name string) (*answerFile, error) {
	if name == "" {
		return nil, nil
	}
	f, err := os.Create(name)
	if err != nil {
		return nil, program.BadInput("-output: %w", err)
	}
	return &answerFile{file: f}, nil
}

func (f *answerFile) write(question, answer string) {
	if f == nil || f.err != nil {
		return
	}
	f.err = json.NewEncoder(f.file).Encode(struct {
		Question string `json:"question"`
		Answer   string `json:"answer"`
	}{question, answer})
}

func (f *answerFile) close() error {
	if f == nil {
		return nil
	}
	return errors.Join(f.err, f.file.Close())
}
