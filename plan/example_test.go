package plan_test

import (
	"fmt"
	"log"
	"time"

	"github.com/llmqueue/llmqueue"
	"github.com/llmqueue/llmqueue/plan"
)

// A thousand requests of 1,000 tokens each: is it worth asking for more tokens a minute?
func ExampleRun() {
	load := func(yield func(plan.Request) bool) {
		for range 1000 {
			r := plan.Request{Duration: 5 * time.Second, Estimate: llmqueue.Usage{InputTokens: 600, OutputTokens: 400}}
			if !yield(r) {
				return
			}
		}
	}
	for _, tokens := range []int64{200_000, 400_000} {
		r, err := plan.Run(load, llmqueue.WithLimits(llmqueue.RPM(300), llmqueue.TPM(tokens), llmqueue.Concurrent(50)))
		if err != nil {
			log.Fatal(err)
		}
		binds := r.Limits[0]
		fmt.Printf("%v, held for longest by %s, %.0f%% of it used\n", r.Makespan.Round(time.Second), binds.Limit, 100*binds.Quota)
	}
	// Output:
	// 4m21s, held for longest by 200000 tpm, 100% of it used
	// 3m11s, held for longest by 300 rpm, 83% of it used
}
