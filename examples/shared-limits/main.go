// Shared-limits runs several processes that share one key: together they make as many
// calls as its limits allow, and none is refused.
//
//	go run ./examples/shared-limits
//
// Redis is a redis-server that it starts for itself, or the one that REDIS_URL names;
// where there is neither it says so and ends. The processes are this program started
// anew; the provider is a simulator in the first one, which enforces the limits.
package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"time"

	"github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/option"
	"github.com/redis/go-redis/v9"

	"github.com/llmqueue/llmqueue"
	"github.com/llmqueue/llmqueue/examples/internal/chat"
	"github.com/llmqueue/llmqueue/examples/internal/program"
	"github.com/llmqueue/llmqueue/llmredis"
	"github.com/llmqueue/llmqueue/llmtest"
)

const (
	model  = "gpt-4.1-mini"
	period = 4 * time.Second // a minute, for those in a hurry
	rpm    = 120
	tpm    = 8000

	// How a process that this one started finds the others.
	urlVariable    = "SHARED_LIMITS_URL"
	prefixVariable = "SHARED_LIMITS_PREFIX"
)

func main() { program.Main("shared-limits", run) }

func run(ctx context.Context, args []string, stdout io.Writer) error {
	flags := flag.NewFlagSet("shared-limits", flag.ContinueOnError)
	processes := flags.Int("processes", 3, "how many processes share the key, 1 to 20")
	requests := flags.Int("requests", 100, "how many requests each process has, 1 to 10000")
	if err := program.Parse(flags, args, stdout); err != nil {
		return err
	}
	if *processes < 1 || *processes > 20 || *requests < 1 || *requests > 10000 {
		return program.BadInput("-processes wants 1 to 20 and -requests 1 to 10000")
	}
	if url := os.Getenv(urlVariable); url != "" {
		return work(ctx, url, *requests, stdout)
	}

	redisURL, stop, err := findRedis(ctx)
	if err != nil {
		fmt.Fprintf(stdout, "There is nothing to see without Redis: %v.\n", err)
		return nil
	}
	defer stop()
	provider, err := llmtest.Start(llmtest.OpenAI(llmtest.RPM(rpm).Per(period), llmtest.TPM(tpm).Per(period)),
		llmtest.WithStrategy(llmtest.SlidingWindow), llmtest.WithRefusedFree())
	if err != nil {
		return err
	}
	defer provider.Close()
	fmt.Fprintf(stdout, "Answered by a simulator that allows %d requests and %d tokens every %v. %d processes share them.\n\n", rpm, tpm, period, *processes)

	begin := time.Now()
	var running sync.WaitGroup
	problems := make([]error, *processes)
	var mu sync.Mutex // guards stdout
	for i := range *processes {
		running.Go(func() {
			problems[i] = start(ctx, i+1, *requests, []string{
				"REDIS_URL=" + redisURL, urlVariable + "=" + provider.URL(), prefixVariable + "=example-" + strconv.Itoa(os.Getpid()),
			}, func(line string) {
				mu.Lock()
				defer mu.Unlock()
				fmt.Fprintf(stdout, "%5.1f s  process %d %s\n", time.Since(begin).Seconds(), i+1, line)
			})
		})
	}
	running.Wait()
	if err := errors.Join(problems...); err != nil {
		return err
	}
	stats := provider.Stats()
	fmt.Fprintf(stdout, "\n%d calls in %.1f s, at most %d of them within %v; refused by the server: %d\n",
		stats.Accepted, time.Since(begin).Seconds(), stats.Limits[0].Peak, period, stats.Refused)
	return nil
}

// findRedis gives the address of a Redis, one of its own unless REDIS_URL names one.
func findRedis(ctx context.Context) (url string, stop func(), err error) {
	if url := os.Getenv("REDIS_URL"); url != "" {
		if _, err := redis.ParseURL(url); err != nil {
			return "", nil, errors.New("REDIS_URL is no address of a Redis, give one such as redis://localhost:6379")
		}
		return url, func() {}, nil
	}
	path, err := exec.LookPath("redis-server")
	if err != nil {
		return "", nil, errors.New("there is no redis-server in PATH; install it, or set REDIS_URL")
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", nil, err
	}
	_, port, _ := net.SplitHostPort(l.Addr().String())
	if err := l.Close(); err != nil {
		return "", nil, err
	}
	server := exec.Command(path, "--port", port, "--bind", "127.0.0.1", "--save", "", "--logfile", os.DevNull)
	if err := server.Start(); err != nil {
		return "", nil, err
	}
	stop = func() {
		_ = server.Process.Kill()
		_ = server.Wait()
	}
	client := redis.NewClient(&redis.Options{Addr: "127.0.0.1:" + port})
	defer client.Close()
	for client.Ping(ctx).Err() != nil {
		select {
		case <-time.After(10 * time.Millisecond):
		case <-ctx.Done():
			stop()
			return "", nil, ctx.Err()
		}
	}
	return "redis://127.0.0.1:" + port, stop, nil
}

// start runs this program as one more process and hands on what it says.
func start(ctx context.Context, number, requests int, env []string, say func(string)) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, self, "-requests", strconv.Itoa(requests))
	cmd.Env = append(os.Environ(), env...)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	for lines := bufio.NewScanner(out); lines.Scan(); {
		say(lines.Text())
	}
	if err := cmd.Wait(); err != nil {
		return fmt.Errorf("process %d: %w", number, err)
	}
	return nil
}

// work is what each process does. The lines that concern Redis are the first four.
func work(ctx context.Context, url string, requests int, stdout io.Writer) error {
	options, err := redis.ParseURL(os.Getenv("REDIS_URL"))
	if err != nil {
		return errors.New("REDIS_URL is no address of a Redis")
	}
	client := redis.NewClient(options)
	defer client.Close()
	limits := llmredis.New(client, os.Getenv(prefixVariable), llmqueue.RPM(rpm).Per(period), llmqueue.TPM(tpm).Per(period))

	sdk := openai.NewClient(option.WithBaseURL(url), option.WithAPIKey("any"), option.WithMaxRetries(0))
	queue, err := llmqueue.NewQueue(model, func(ctx context.Context, req llmqueue.Request[string]) (string, error) {
		answer, err := sdk.Chat.Completions.New(ctx, chat.Params(model, req.Params, 50))
		if err != nil {
			return "", err
		}
		return answer.Choices[0].Message.Content, nil
	}, llmqueue.WithSharedLimits(limits), llmqueue.WithoutDeadlineCheck(), llmqueue.WithEstimator(func(req llmqueue.Request[string]) llmqueue.Usage {
		return llmqueue.Usage{InputTokens: int64(len(req.Params)+3) / 4, OutputTokens: 50}
	}))
	if err != nil {
		return err
	}
	defer limits.Close(context.WithoutCancel(ctx))
	defer queue.Shutdown(context.WithoutCancel(ctx))
	questions := func(yield func(llmqueue.Request[string]) bool) {
		for i := range requests {
			if !yield(llmqueue.Request[string]{Params: fmt.Sprintf("What is special about the number %d?", i)}) {
				return
			}
		}
	}
	answered := 0
	for response, err := range queue.SubmitAll(ctx, questions) {
		if err == nil {
			err = response.Err
		}
		if err != nil {
			return err
		}
		if answered++; answered%50 == 0 || answered == requests {
			fmt.Fprintf(stdout, "has answered %d of %d\n", answered, requests)
		}
	}
	return nil
}
