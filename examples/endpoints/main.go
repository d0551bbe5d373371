// Endpoints sends one model's requests to two deployments of it, each with its own key,
// address and limits. The queue stays one: one line, one order, and the next request goes
// to whichever deployment has room first. Together they take what both allow, and neither
// is ever sent more than its own limits.
//
//	go run ./examples/endpoints
//
// The deployments are two simulators in this process. For real ones give each processor a
// client of its own, with its key and base URL.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"github.com/llmqueue/llmqueue"
	"github.com/llmqueue/llmqueue/examples/internal/batch"
	"github.com/llmqueue/llmqueue/examples/internal/chat"
	"github.com/llmqueue/llmqueue/examples/internal/program"
	"github.com/llmqueue/llmqueue/examples/internal/service"
	"github.com/llmqueue/llmqueue/llmtest"
)

func main() { program.Main("endpoints", run) }

// deployment is one of them: its name and what it allows in a period.
type deployment struct {
	name   string
	rpm    int64
	client *chat.Provider
}

// period is a minute scaled down, so that the program ends soon.
const period = 2 * time.Second

// open starts the simulator of a deployment, which enforces its limit.
func (d *deployment) open() (err error) {
	d.client, err = chat.Simulate(chat.Simulator{
		Limits: []llmtest.Limit{llmtest.RPM(d.rpm).Per(period)},
		Minute: period,
		Options: []llmtest.Option{
			llmtest.WithStrategy(llmtest.SlidingWindow),
			llmtest.WithLatency(llmtest.TypicalLatency().Scaled(period.Minutes())),
		},
	})
	return err
}

// ask is the deployment's processor.
func (d *deployment) ask(ctx context.Context, req llmqueue.Request[string]) (string, error) {
	reply, err := d.client.Ask(ctx, req.ModelID, req.Params, 100)
	return reply.Text, err
}

func (d *deployment) limits() llmqueue.Option {
	return llmqueue.WithLimits(llmqueue.RPM(d.rpm).Per(period))
}

func run(ctx context.Context, args []string, stdout io.Writer) error {
	flags := flag.NewFlagSet("endpoints", flag.ContinueOnError)
	questions := flags.Int("questions", 90, "how many to ask")
	if err := program.Parse(flags, args, stdout); err != nil {
		return err
	}
	if *questions < 1 {
		return program.BadInput("-questions wants at least 1")
	}
	deployments := []*deployment{{name: "eu", rpm: 10}, {name: "us", rpm: 20}}
	for _, d := range deployments {
		if err := d.open(); err != nil {
			return err
		}
		defer d.client.Close()
	}
	fmt.Fprintf(stdout, "Answered by two simulators in this process, with 10 and 20 requests per %v.\n\n", period)

	// Who answers which request is an event's to tell.
	var mu sync.Mutex
	answered := map[string]int{}
	queue, err := llmqueue.NewQueue(chat.DefaultModel, deployments[0].ask, deployments[0].limits(), llmqueue.WithMargin(200*time.Millisecond),
		llmqueue.WithObserver(func(e llmqueue.Event) {
			if e.Type == llmqueue.EventCompleted {
				mu.Lock()
				defer mu.Unlock()
				answered[e.Endpoint]++
			}
		}))
	if err != nil {
		return err
	}
	for _, d := range deployments[1:] {
		if err := queue.AddEndpoint(d.name, d.ask, d.limits(), llmqueue.WithMargin(200*time.Millisecond)); err != nil {
			return err
		}
	}

	sum, err := batch.Ask(ctx, queue, slices.Repeat([]string{"Why is the sky blue?"}, *questions), func(int, llmqueue.Response[string]) {})
	info := queue.Info()
	if closed := queue.Shutdown(context.WithoutCancel(ctx)); err == nil {
		err = closed // the events are all there now
	}
	for i, d := range deployments {
		e := info.Endpoints[i]
		fmt.Fprintf(stdout, "%-13s %3d answered, %d refused, %d of %d in the latest %v\n", e.Name, answered[e.Name],
			d.client.Transport.Calls().Refused, e.Limits[0].Used, e.Limits[0].Limit.Amount, period)
	}
	calls := service.Calls{}
	for _, d := range deployments {
		c := d.client.Transport.Calls()
		calls.Accepted, calls.Refused, calls.Overloaded, calls.Faults = calls.Accepted+c.Accepted, calls.Refused+c.Refused, calls.Overloaded+c.Overloaded, calls.Faults+c.Faults
	}
	sum.Print(stdout, calls, nil)
	return err
}
