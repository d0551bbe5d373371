package llmriver_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/llmqueue/llmqueue"
	"github.com/llmqueue/llmqueue/llmriver"
)

// The tests here start this test binary again as a process of its own, and kill it. What
// processes do they write to a log, one line per event, each in one write, so that the order
// of lines is the order of events:
//
//	up       the process works
//	run ID   a processor starts
//	acc ID   Submit has returned: the job is accepted
//	end ID   Wait has returned its final response
//
// A fault that they were seen to catch: waiters told before the end is stored. And one of this
// package's first version: a fetch whose answer a crash of PostgreSQL swallowed, left running
// for ever.
const childEnv = "LLMRIVER_TEST_CHILD"

// orders for a child process.
type orders struct {
	File, URL string
	Log       string
	Submit    int // submit that many, wait for all and end; 0: work until the standard input ends
	Slots     int
}

func child() {
	var o orders
	err := json.Unmarshal([]byte(os.Getenv(childEnv)), &o)
	if err == nil {
		err = o.run()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "child:", err)
		os.Exit(1)
	}
}

func (o orders) run() error {
	ctx := context.Background()
	log, err := os.OpenFile(o.Log, os.O_APPEND|os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	say := func(what, id string) { fmt.Fprintf(log, "%s %s\n", what, id) }
	m := llmqueue.NewManager[string, string]()
	if _, err := m.Register(model, func(_ context.Context, r req) (string, error) {
		say("run", r.Params)
		time.Sleep(time.Duration(rand.IntN(10)) * time.Millisecond)
		return strings.ToUpper(r.Params), nil
	}, llmqueue.WithLimits(llmqueue.Concurrent(int64(o.Slots)))); err != nil {
		return err
	}
	j, err := llmriver.Open(ctx, place{o.File, o.URL}.store(), m, quiet(), llmriver.WithLease(childLease))
	if err != nil {
		return err
	}
	say("up", "")
	if o.Submit == 0 {
		_, _ = bufio.NewReader(os.Stdin).ReadByte() // the end of the input
		return errors.Join(j.Shutdown(ctx), m.Shutdown(ctx))
	}
	var all sync.WaitGroup
	errs := make(chan error, o.Submit)
	ids := make(chan string)
	for range 50 {
		all.Go(func() {
			for id := range ids {
				_, err := j.Submit(ctx, req{ModelID: model, ID: id, Params: id, NoWait: true})
				if err != nil && !errors.Is(err, llmqueue.ErrDuplicateRequest) {
					errs <- err
					continue
				}
				say("acc", id)
				resp, err := j.Wait(ctx, model, id)
				if err != nil {
					errs <- err
				} else if resp.Status == llmqueue.StatusCompleted {
					say("end", id)
				}
			}
		})
	}
	for i := range o.Submit {
		ids <- numbered(i)
	}
	close(ids)
	all.Wait()
	close(errs)
	return errors.Join(<-errs, j.Shutdown(ctx), m.Shutdown(ctx))
}

const childLease = time.Second

// process is a child that runs.
type process struct {
	cmd  *exec.Cmd
	end  chan struct{} // closed when it has ended
	err  error
	stop func() // ends its input
}

func (o orders) start(t testing.TB) *process {
	t.Helper()
	data, err := json.Marshal(o)
	require.NoError(t, err)
	cmd := exec.Command(os.Args[0], "-test.run=^$")
	cmd.Env = append(os.Environ(), childEnv+"="+string(data))
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	p := &process{cmd: cmd, end: make(chan struct{}), stop: func() { _ = in.Close() }}
	go func() {
		p.err = cmd.Wait()
		close(p.end)
	}()
	t.Cleanup(p.kill)
	return p
}

func (p *process) kill() {
	_ = p.cmd.Process.Kill()
	<-p.end
}

// story is what the processes' log says.
type story struct {
	runs, accepted, ended map[string]int
	up                    int    // processes that started
	repeated              int    // runs after the first of a job
	undone                string // a job that ran again after its end had been told
}

func read(t testing.TB, log string) story {
	t.Helper()
	s := story{map[string]int{}, map[string]int{}, map[string]int{}, 0, 0, ""}
	data, err := os.ReadFile(log)
	if errors.Is(err, os.ErrNotExist) {
		return s
	}
	require.NoError(t, err)
	for line := range strings.Lines(string(data)) {
		what, id, _ := strings.Cut(strings.TrimSpace(line), " ")
		switch what {
		case "up":
			s.up++
		case "run":
			if s.runs[id]++; s.runs[id] > 1 {
				s.repeated++
			}
			if s.ended[id] > 0 {
				s.undone = id
			}
		case "acc":
			s.accepted[id]++
		case "end":
			s.ended[id]++
		}
	}
	return s
}

// atEnd checks that every accepted job ended once, and as it should.
func atEnd(t *testing.T, p place, ids []string, s story) {
	t.Helper()
	j := open(t, p, newManager(t, upper))
	results := make(map[string]string)
	rows, err := j.DB().QueryContext(t.Context(), "SELECT args ->> 'params', metadata -> 'output' ->> 'result' FROM river_job WHERE state = 'completed'")
	require.NoError(t, err)
	for rows.Next() {
		var params, result string
		require.NoError(t, rows.Scan(&params, &result), "a job ended without its result")
		results[params] = result
	}
	require.NoError(t, errors.Join(rows.Err(), rows.Close()))
	for i, id := range ids {
		require.Equal(t, strings.ToUpper(numbered(i)), results[numbered(i)], "job %s, which was accepted, is lost", id)
		if i%50 == 0 {
			resp, err := j.Status(t.Context(), model, id)
			require.NoError(t, err)
			require.Equal(t, llmqueue.StatusCompleted, resp.Status)
		}
	}
	assert.Equal(t, len(ids), count(t, j.DB(), "state = 'completed'"), "some job ended twice, or none accepted it")
	assert.Zero(t, count(t, j.DB(), "finalized_at IS NULL"), "jobs are left over")
	assert.Empty(t, s.undone, "a job ran again after its end had been told: a crash undid what somebody saw")
	require.NoError(t, j.Shutdown(t.Context()))
}

// kill -9 in the middle, again and again: every job that was accepted ends once. How many
// runs were repeated is printed.
func TestKilled(t *testing.T) {
	jobs, kills := 500, 2
	if os.Getenv(full) != "" {
		jobs, kills = 2000, 4
	}
	onEach(t, func(t *testing.T, p place) {
		o := orders{File: p.file, URL: p.url, Log: filepath.Join(t.TempDir(), "log"), Submit: jobs, Slots: 16}
		for k := range kills {
			c := o.start(t)
			enough := jobs * (k + 1) / (kills + 2)
			eventually(t, "the processes get nowhere", func() bool {
				select {
				case <-c.end:
					require.Fail(t, "the process ended by itself", c.err)
				default:
				}
				return len(read(t, o.Log).runs) >= enough
			})
			c.kill()
		}
		c := o.start(t)
		<-c.end
		require.NoError(t, c.err)
		s := read(t, o.Log)
		assert.Len(t, s.accepted, jobs)
		ids := make([]string, jobs)
		for i := range ids {
			ids[i] = numbered(i)
		}
		atEnd(t, p, ids, s)
		t.Logf("%d jobs, %d kills: %d runs were repeated", jobs, kills, s.repeated)
	})
}

// shared lets worker processes share jobs that this one submits, and lets something happen
// on the way.
func shared(t *testing.T, p place, jobs, workers int, happens func(ps []*process, o orders, left func() int) []*process) {
	web, err := llmriver.SubmitOnly[string, string](t.Context(), p.store(), quiet())
	require.NoError(t, err)
	t.Cleanup(func() { _ = web.Shutdown(ended()) })
	ids := make([]string, jobs)
	var all sync.WaitGroup
	slots := make(chan struct{}, 100)
	for i := range ids {
		slots <- struct{}{}
		all.Go(func() {
			ids[i] = post(t, web, req{Params: numbered(i)})
			<-slots
		})
	}
	all.Wait()
	o := orders{URL: p.url, Log: filepath.Join(t.TempDir(), "log"), Slots: 16}
	var ps []*process
	from := time.Now()
	for range workers {
		ps = append(ps, o.start(t))
	}
	left := func() int { return jobs - len(read(t, o.Log).runs) }
	ps = happens(ps, o, left)
	eventually(t, "not all jobs end", func() bool {
		var n int
		err := web.DB().QueryRowContext(t.Context(), "SELECT count(*) FROM river_job WHERE finalized_at IS NULL").Scan(&n)
		return err == nil && n == 0
	})
	took := time.Since(from)
	for _, c := range ps {
		c.stop()
	}
	for _, c := range ps {
		<-c.end
		assert.NoError(t, c.err, "a worker process did not end well")
	}
	s := read(t, o.Log)
	atEnd(t, p, ids, s)
	t.Logf("%d jobs, %d processes: %.1f s, %d runs were repeated", jobs, workers, took.Seconds(), s.repeated)
}

func sharedJobs() int {
	if os.Getenv(full) != "" {
		return 10_000
	}
	return 500
}

// Two and four processes share jobs; one of them is killed.
func TestProcesses(t *testing.T) {
	for _, workers := range []int{2, 4} {
		t.Run(fmt.Sprint(workers), func(t *testing.T) {
			jobs := sharedJobs()
			shared(t, newSchema(t), jobs, workers, func(ps []*process, _ orders, left func() int) []*process {
				eventually(t, "the processes get nowhere", func() bool { return left() < jobs/2 })
				ps[0].kill()
				return ps[1:]
			})
		})
	}
}
