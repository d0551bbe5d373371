package llmredis

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/llmqueue/llmqueue"
)

// order is what a worker process is told to do.
type order struct {
	Redis, Prefix, URL string
	Limits             []llmqueue.Limit
	LocalShare         float64
	SlotTTL, Margin    time.Duration
	Callers            int
}

const orderVariable = "LLMREDIS_TEST_ORDER"

func TestMain(m *testing.M) {
	if text := os.Getenv(orderVariable); text != "" {
		var o order
		if err := json.Unmarshal([]byte(text), &o); err != nil {
			panic(err)
		}
		o.work()
		return
	}
	// Most of the time these tests wait for a period to pass. More loads at once starve
	// two cores: calls arrive late, and quota goes unused.
	flag.Parse()
	if err := flag.Set("test.parallel", "4"); err != nil {
		panic(err)
	}
	os.Exit(m.Run())
}

// work is the main function of a worker: it calls the simulator from many goroutines
// until its standard input ends. It prints when each was started, and in the end how many there were.
func (o order) work() {
	client := redis.NewClient(&redis.Options{Addr: o.Redis, DialTimeout: time.Second, ReadTimeout: time.Second})
	limits := Options{LocalShare: o.LocalShare, SlotTTL: o.SlotTTL, Margin: o.Margin}.New(client, o.Prefix, o.Limits...)
	var refused atomic.Int64
	http.DefaultTransport.(*http.Transport).MaxIdleConnsPerHost = 1000
	queue, err := llmqueue.NewQueue("m", func(ctx context.Context, r llmqueue.Request[call]) (int, error) {
		u, status, err := r.Params.make(ctx, o.URL)
		if status == http.StatusTooManyRequests {
			refused.Add(1)
		}
		if err == nil {
			llmqueue.ReportUsage(ctx, u)
		}
		return 0, err
	}, llmqueue.WithSharedLimits(limits), llmqueue.WithoutDeadlineCheck(), llmqueue.WithObserver(func(e llmqueue.Event) {
		if e.Type == llmqueue.EventStarted {
			fmt.Println(e.Time.UnixNano()) // of the reservation
		}
	}), llmqueue.WithEstimator(func(r llmqueue.Request[call]) llmqueue.Usage {
		return llmqueue.Usage{InputTokens: r.Params.input(), OutputTokens: r.Params.Output}
	}))
	if err != nil {
		panic(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var done atomic.Int64
	var wait sync.WaitGroup
	for range o.Callers {
		wait.Go(func() {
			for ctx.Err() == nil {
				c := call{Input: 1 + rand.IntN(200), Output: 1 + rand.Int64N(100)}
				if _, err := queue.Do(ctx, c); err == nil {
					done.Add(1)
				}
			}
		})
	}
	fmt.Println("ready")
	_, _ = io.Copy(io.Discard, os.Stdin)
	cancel()
	wait.Wait()
	ctx, cancel = context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	_ = queue.Shutdown(ctx)
	_ = limits.Close(ctx)
	fmt.Println("end", done.Load(), refused.Load())
}

// call is a chat completion.
type call struct {
	Input  int // bytes
	Output int64
}

// input is how the simulator counts tokens of text.
func (c call) input() int64 { return int64(c.Input+3) / 4 }

func (c call) make(ctx context.Context, url string) (u llmqueue.Usage, status int, err error) {
	body, _ := json.Marshal(map[string]any{
		"model": "m", "max_tokens": c.Output, "messages": []map[string]string{{"role": "user", "content": strings.Repeat("x", c.Input)}},
	})
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url+"/chat/completions", bytes.NewReader(body))
	if err != nil {
		return u, 0, err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return u, 0, err
	}
	defer resp.Body.Close()
	var answer struct {
		Usage struct {
			PromptTokens     int64 `json:"prompt_tokens"`
			CompletionTokens int64 `json:"completion_tokens"`
		}
	}
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil {
		return u, resp.StatusCode, err
	}
	if resp.StatusCode != http.StatusOK {
		return u, resp.StatusCode, fmt.Errorf("status %d", resp.StatusCode)
	}
	return llmqueue.Usage{InputTokens: answer.Usage.PromptTokens, OutputTokens: answer.Usage.CompletionTokens}, resp.StatusCode, nil
}

// worker is such a process.
type worker struct {
	cmd   *exec.Cmd
	stdin io.WriteCloser
	errs  *bytes.Buffer
	read  chan struct{} // closed when all that it prints was read

	starts        []time.Time
	done, refused int64
	ended         bool
}

func startWorker(t testing.TB, o order) *worker {
	t.Helper()
	text, err := json.Marshal(o)
	require.NoError(t, err)
	w := &worker{cmd: exec.Command(os.Args[0]), errs: new(bytes.Buffer)}
	w.cmd.Env = append(os.Environ(), orderVariable+"="+string(text))
	w.cmd.Stderr = w.errs
	w.stdin, err = w.cmd.StdinPipe()
	require.NoError(t, err)
	out, err := w.cmd.StdoutPipe()
	require.NoError(t, err)
	w.read = make(chan struct{})
	require.NoError(t, w.cmd.Start())
	t.Cleanup(func() { _ = w.cmd.Process.Kill() })
	lines := bufio.NewScanner(out)
	require.True(t, lines.Scan(), "the worker does not start")
	require.Equal(t, "ready", lines.Text())
	go func() {
		defer close(w.read)
		for lines.Scan() {
			if ns, err := strconv.ParseInt(lines.Text(), 10, 64); err == nil {
				w.starts = append(w.starts, time.Unix(0, ns))
			} else if n, _ := fmt.Sscan(lines.Text(), new(string), &w.done, &w.refused); n == 3 {
				w.ended = true
			}
		}
	}()
	return w
}

// end tells it to stop, and gives how many calls it made.
func (w *worker) end(t testing.TB) (done int64) {
	t.Helper()
	require.NoError(t, w.stdin.Close())
	<-w.read
	require.NoError(t, w.cmd.Wait(), "%s", w.errs)
	require.True(t, w.ended, "the worker ended without saying what it did: %s", w.errs)
	return w.done
}

func (w *worker) kill() {
	_ = w.cmd.Process.Kill()
	<-w.read
	_ = w.cmd.Wait()
}
