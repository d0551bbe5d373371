package makespan

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/llmqueue/llmqueue"
)

// Question is one call to make.
type Question struct {
	Prompt    string
	MaxTokens int64 // max_completion_tokens
}

const instruction = "Solve the problem step by step and end with the result alone on the last line."

// newQuestion gives longer problems room for longer answers.
func newQuestion(text string) Question {
	return Question{
		Prompt:    text + "\n\n" + instruction,
		MaxTokens: 64 + 3*llmqueue.EstimateTokens(text),
	}
}

// usage is what the provider charges: the prompt and all that the answer may become,
// on arrival and for good, as OpenAI documents it.
func (q Question) usage() llmqueue.Usage {
	return llmqueue.Usage{InputTokens: llmqueue.EstimateTokens(q.Prompt), OutputTokens: q.MaxTokens}
}

func (q Question) tokens() int64 { return q.usage().Total() }

// maxLine is the longest line that a file of questions may have.
const maxLine = 16 << 20

// Read reads one JSON object a line and takes its "question" or "prompt". Empty lines
// are skipped.
func Read(r io.Reader) ([]Question, error) {
	var questions []Question
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
			return nil, fmt.Errorf("line %d: not a JSON object: %w", n, err)
		}
		if row.Question == "" {
			row.Question = row.Prompt
		}
		if row.Question == "" {
			return nil, fmt.Errorf(`line %d: no "question" and no "prompt" in it`, n)
		}
		questions = append(questions, newQuestion(row.Question))
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("line %d: %w", n+1, err)
	}
	if len(questions) == 0 {
		return nil, errors.New("no questions in it")
	}
	return questions, nil
}

// patterns make the sample. Each takes three numbers.
var patterns = []string{
	"A baker fills %d trays with %d rolls each and sells all but %d of them. How many rolls does he sell?",
	"%d friends share %d apples and put %d more in a bowl. How many apples does each have?",
	"A train leaves with %d passengers. At each of the next %d stops %d people get on and nobody gets off. How many passengers are on the train after the last of these stops?",
	"Ida reads %d pages on each school day and twice as many on each day of the weekend, %d weeks long. Her brother reads %d pages a day. How many pages do the two of them read together in that time, and who of them has read more?",
	"A tank holds %d liters.\nA pump fills it at %d liters a minute, while a leak loses %d liters in the same time. How long does it take until the tank is full?",
	"A farmer has %d hens, and each of them lays %d eggs a week. She keeps a dozen eggs for her family, gives half a dozen to each of her %d neighbors, and packs the rest into boxes of ten, which she sells at the market for 3 dollars a box. An opened box is not sold. How many dollars does she earn in a week, and how many eggs are left over?",
}

// Sample is 60 questions of the kind that a file would hold.
func Sample() []Question {
	questions := make([]Question, 60)
	for i := range questions {
		p := patterns[i%len(patterns)]
		questions[i] = newQuestion(strings.TrimSpace(fmt.Sprintf(p, 20+7*i, 3+i%11, 2+i%5)))
	}
	return questions
}
