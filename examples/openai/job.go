package main

import (
	"context"
	"fmt"
	"io"
	"iter"
	"strconv"
	"sync"
	"time"

	"github.com/llmqueue/llmqueue"
)

// A job is one run over all questions.
type job struct {
	*asker
	questions []Question
	out       *answerFile

	answers  []*Answer // by question; nil where there is none
	answered int
	limits   []llmqueue.LimitInfo // of the queue, in the end
	firstErr error                // of the questions that failed
	wall     time.Duration
}

// runWithQueue sends every question through a queue that keeps the limits.
func (j *job) runWithQueue(ctx context.Context, stdout io.Writer) error {
	limits := []llmqueue.Limit{llmqueue.Concurrent(int64(j.concurrency))}
	if j.known {
		limits = append(limits, llmqueue.RPM(j.rpm).Per(j.period), llmqueue.TPM(j.tpm).Per(j.period))
	}
	opts := []llmqueue.Option{llmqueue.WithLimits(limits...)}
	if !j.known {
		opts = append(opts, llmqueue.WithLearnedLimits())
	}
	if j.margin > 0 {
		opts = append(opts, llmqueue.WithMargin(j.margin))
	}
	queue, err := llmqueue.NewQueue(j.model, j.process, opts...)
	if err != nil {
		return err
	}

	j.answers = make([]*Answer, len(j.questions))
	var p progress
	stop := watch(stdout, func() string {
		info := queue.Info()
		p.running.Store(int64(info.Processing))
		return p.line(len(j.questions)) + use(info.Limits) + j.eta(ctx, queue)
	})
	begin := time.Now()
	for res, err := range queue.SubmitAll(ctx, j.requests()) {
		i, _ := strconv.Atoi(res.RequestID)
		p.tokens.Add(res.Usage.Total())
		p.count(err)
		j.record(i, res.Result, err)
	}
	j.wall = time.Since(begin)
	stop()
	j.limits = queue.Info().Limits

	// Everything is answered or canceled; Shutdown lets the workers go.
	return queue.Shutdown(context.WithoutCancel(ctx))
}

// eta is when the last question will start, as the queue itself forecasts it: when another
// one like the last would, behind all that wait now. Empty when nothing waits.
func (j *job) eta(ctx context.Context, queue *llmqueue.Queue[Question, Answer]) string {
	last := j.questions[len(j.questions)-1]
	f, err := queue.Forecast(ctx, llmqueue.NewRequest(j.model, last))
	if err != nil || f.Position <= 1 || f.EstimatedStart.IsZero() {
		return ""
	}
	return fmt.Sprintf(", the last starts in about %s", seconds(time.Until(f.EstimatedStart)))
}

// requests yields one request for each question. The queue pulls them only as
// fast as it takes them in, so that a long input costs no memory here.
func (j *job) requests() iter.Seq[llmqueue.Request[Question]] {
	return func(yield func(llmqueue.Request[Question]) bool) {
		for i, q := range j.questions {
			req := llmqueue.NewRequest(j.model, q)
			req.ID = strconv.Itoa(i)
			if !yield(req) {
				return
			}
		}
	}
}

// runWithoutQueue does what a program does that has no queue: a goroutine for
// each question, a semaphore, and the SDK's retries.
func (j *job) runWithoutQueue(ctx context.Context, stdout io.Writer) {
	j.answers = make([]*Answer, len(j.questions))
	var (
		p   progress
		mu  sync.Mutex // guards record
		all sync.WaitGroup
	)
	stop := watch(stdout, func() string { return p.line(len(j.questions)) })
	begin := time.Now()
	slots := make(chan struct{}, j.concurrency)
	for i, q := range j.questions {
		slots <- struct{}{}
		all.Go(func() {
			defer func() { <-slots }()
			p.running.Add(1)
			answer, err := j.ask(ctx, q)
			p.running.Add(-1)
			p.tokens.Add(answer.Charged.Total())
			p.count(err)
			mu.Lock()
			defer mu.Unlock()
			j.record(i, answer, err)
		})
	}
	all.Wait()
	j.wall = time.Since(begin)
	stop()
}

func (j *job) record(i int, answer Answer, err error) {
	if err != nil {
		if j.firstErr == nil {
			j.firstErr = err
		}
		return
	}
	j.answers[i] = &answer
	j.answered++
	j.out.write(j.questions[i].Text, answer.Text)
}

// missing is how many questions have no answer: failed, or never sent because the
// user stopped the run.
func (j *job) missing() int { return len(j.questions) - j.answered }

// verdict is the program's error, if any. Without the queue failures are what the
// run is there to show.
func (j *job) verdict(ctx context.Context) error {
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("%d of %d questions were answered", j.answered, len(j.questions))
	case j.firstErr != nil && !j.noQueue:
		return fmt.Errorf("%d of %d questions got no answer, the first because: %w", j.missing(), len(j.questions), j.firstErr)
	}
	return nil
}
