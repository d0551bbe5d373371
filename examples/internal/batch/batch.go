// Package batch sends the questions of an example through its queue and sums up what
// became of them.
package batch

import (
	"context"
	"fmt"
	"io"
	"iter"
	"strconv"
	"time"

	"github.com/llmqueue/llmqueue"
	"github.com/llmqueue/llmqueue/examples/internal/service"
)

// Summary is what became of all questions.
type Summary struct {
	Questions, Answered int
	Usage               llmqueue.Usage
	Took                time.Duration
}

// Ask sends a request for each of params, calls each with the answers as they come in,
// and returns the first error of those that failed.
func Ask[P, T any](ctx context.Context, queue *llmqueue.Queue[P, T], params []P, each func(i int, res llmqueue.Response[T])) (Summary, error) {
	sum := Summary{Questions: len(params)}
	var first error
	begin := time.Now()
	for res, err := range queue.SubmitAll(ctx, requests(queue.ModelID(), params)) {
		sum.Usage.InputTokens += res.Usage.InputTokens
		sum.Usage.OutputTokens += res.Usage.OutputTokens
		sum.Usage.CachedInputTokens += res.Usage.CachedInputTokens
		if err != nil {
			if first == nil {
				first = err
			}
			continue
		}
		sum.Answered++
		i, _ := strconv.Atoi(res.RequestID)
		each(i, res)
	}
	sum.Took = time.Since(begin)
	if first != nil {
		return sum, fmt.Errorf("%d of %d questions got no answer, the first because: %w", sum.Questions-sum.Answered, sum.Questions, first)
	}
	return sum, nil
}

func requests[P any](model string, params []P) iter.Seq[llmqueue.Request[P]] {
	return func(yield func(llmqueue.Request[P]) bool) {
		for i, p := range params {
			req := llmqueue.NewRequest(model, p)
			req.ID = strconv.Itoa(i)
			if !yield(req) {
				return
			}
		}
	}
}

// Print writes the sums, first what has no answer, what the server said to each call, and the limits.
func (s Summary) Print(w io.Writer, calls service.Calls, limits []llmqueue.LimitInfo) {
	fmt.Fprintln(w)
	if missing := s.Questions - s.Answered; missing > 0 {
		fmt.Fprintf(w, "%d of %d questions have no answer.\n", missing, s.Questions)
	}
	fmt.Fprintf(w, "%d of %d questions answered in %.1fs, %d input and %d output tokens\n",
		s.Answered, s.Questions, s.Took.Seconds(), s.Usage.InputTokens, s.Usage.OutputTokens)
	fmt.Fprintf(w, "Calls: %d accepted, %d refused, %d met an overloaded server, %d failed\n\n",
		calls.Accepted, calls.Refused, calls.Overloaded, calls.Faults)
	Limits(w, limits)
}

// Limits writes how much of each limit is used.
func Limits(w io.Writer, limits []llmqueue.LimitInfo) {
	for _, l := range limits {
		fmt.Fprintf(w, "%-12s %6d used, %7d left\n", l.Limit.Kind, l.Used, l.Available)
	}
}

// Attempts writes a number of attempts.
func Attempts(n int) string {
	if n == 1 {
		return "1 attempt"
	}
	return fmt.Sprintf("%d attempts", n)
}
