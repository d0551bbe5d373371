package main

import (
	"cmp"
	"fmt"
	"io"
	"math"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/llmqueue/llmqueue"
)

// watch shows status while the job runs: one line that is written over on a
// terminal, a line each second, if there is news, elsewhere. The function that it returns ends it;
// until then nothing else may write to out.
func watch(out io.Writer, status func() string) (stop func()) {
	every, before, after := time.Second, "", "\n"
	if terminal(out) {
		every, before, after = 100*time.Millisecond, "\r\x1b[K", ""
	}
	var (
		ended = make(chan struct{})
		done  sync.WaitGroup
	)
	done.Go(func() {
		tick := time.NewTicker(every)
		defer tick.Stop()
		shown := ""
		for {
			select {
			case <-tick.C:
				if now := status(); now != shown {
					fmt.Fprint(out, before+now+after)
					shown = now
				}
			case <-ended:
				fmt.Fprintln(out, before+status())
				return
			}
		}
	})
	return func() {
		close(ended)
		done.Wait()
	}
}

func terminal(out io.Writer) bool {
	f, ok := out.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

// progress is how far a job has come.
type progress struct {
	answered, failed, running, tokens atomic.Int64
}

// count takes down that a question's call has ended.
func (p *progress) count(err error) {
	if err != nil {
		p.failed.Add(1)
	} else {
		p.answered.Add(1)
	}
}

// line is the part of the progress that needs no queue.
func (p *progress) line(total int) string {
	answered, failed, running := int(p.answered.Load()), int(p.failed.Load()), int(p.running.Load())
	s := fmt.Sprintf("%d of %d answered", answered, total)
	if failed > 0 {
		s = fmt.Sprintf("%d failed, ", failed) + s
	}
	return s + fmt.Sprintf(", %d in flight, %d waiting, %s tokens",
		running, max(total-answered-failed-running, 0), thousands(p.tokens.Load()))
}

// use is how much of each limit per period is taken right now.
func use(limits []llmqueue.LimitInfo) string {
	var b strings.Builder
	for _, l := range limits {
		if l.Limit.Kind != llmqueue.KindConcurrent {
			fmt.Fprintf(&b, ", %s of %s", thousands(l.Used), amount(l.Limit))
		}
	}
	return b.String()
}

// amount writes a limit in full: a period that is not a minute is named, and so is one that is.
func amount(l llmqueue.Limit) string {
	counted, period := string(l.Kind), cmp.Or(l.Period, time.Minute)
	switch l.Kind {
	case llmqueue.KindRPM:
		counted = "requests"
	case llmqueue.KindTPM:
		counted = "tokens"
	default: // a limit of a day, or of a kind of tokens
		if l.Period == 0 {
			return thousands(l.Amount) + " " + counted
		}
	}
	return fmt.Sprintf("%s %s per %s", thousands(l.Amount), counted, length(period))
}

// length writes a period as people do.
func length(period time.Duration) string {
	switch {
	case period == time.Minute:
		return "minute"
	case period%time.Second == 0:
		return fmt.Sprintf("%d s", period/time.Second)
	}
	return period.String()
}

// report prints the table.
func (j *job) report(stdout io.Writer) {
	var (
		calls         []call
		used, charged int64
	)
	for _, a := range j.answers {
		if a != nil {
			calls = append(calls, call{tokens: a.Charged.Total(), latency: a.Latency})
			used += a.Used.Total()
			charged += a.Charged.Total()
		}
	}
	rpm, tpm := j.bounds()
	least := minimum(calls, rpm, tpm, j.concurrency, j.period)
	server := j.provider.Transport.Calls()

	how := "with the queue"
	if j.noQueue {
		how = "without the queue"
	}
	fmt.Fprintln(stdout)
	if n := j.missing(); n > 0 {
		fmt.Fprintf(stdout, "%d of %d questions have no answer.\n\n", n, len(j.questions))
	}
	row := func(name string, value any) { fmt.Fprintf(stdout, "%-30s %24v\n", name, value) }
	row("", how)
	row("questions without an answer", j.missing())
	row("requests", len(j.questions))
	row("accepted by the server", server.Accepted)
	row("refused by the server", server.Refused)
	row("other faults", server.Faults+server.Overloaded)
	for _, limit := range j.learned() {
		row("limit learned", limit)
	}
	row("wall time", seconds(j.wall))
	if j.missing() > 0 {
		row("minimum for what was answered", seconds(least)) // no measure of the wall time
	} else {
		row("minimum that the limits allow", seconds(least))
	}
	if least > 0 && j.missing() == 0 {
		row("wall time / minimum", fmt.Sprintf("%.3f", j.wall.Seconds()/least.Seconds()))
	}
	row("tokens charged", thousands(charged))
	row("tokens used", thousands(used))
	fmt.Fprintln(stdout)
	if j.noQueue && server.Refused > 0 {
		fmt.Fprintf(stdout, "The server refused %d calls. Run it without -no-queue to compare.\n", server.Refused)
	}
}

// learned is what the queue learned of the limits; nothing when it was not to learn any.
func (j *job) learned() []string {
	if j.known || j.noQueue {
		return nil
	}
	var limits []string
	for _, l := range j.limits {
		if l.Limit.Kind != llmqueue.KindConcurrent {
			limits = append(limits, amount(l.Limit))
		}
	}
	if len(limits) == 0 {
		return []string{"none stated"}
	}
	return limits
}

// bounds are the limits per period that bound the run: those of the flags, unless the
// real service has its own, which the queue learned. One that it did not state is no
// bound, and those of a day are left out.
func (j *job) bounds() (rpm, tpm int64) {
	if j.provider.Simulated() || j.known || j.noQueue {
		return j.rpm, j.tpm
	}
	rpm, tpm = math.MaxInt64, math.MaxInt64
	for _, l := range j.limits {
		switch l.Limit.Kind {
		case llmqueue.KindRPM:
			rpm = l.Limit.Amount
		case llmqueue.KindTPM:
			tpm = l.Limit.Amount
		}
	}
	return rpm, tpm
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.2fs", d.Seconds()) }

// thousands writes 1234567 as 1,234,567.
func thousands(n int64) string {
	s := strconv.FormatInt(n, 10)
	for i := len(s) - 3; i > 0 && s[i-1] != '-'; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}
