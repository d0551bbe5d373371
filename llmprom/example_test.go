package llmprom_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"regexp"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/llmqueue/llmqueue"
	"github.com/llmqueue/llmqueue/llmprom"
	"github.com/llmqueue/llmqueue/llmtest"
)

func Example() {
	ctx := context.Background()
	metrics := llmprom.New()
	manager := llmqueue.NewManager[string, string](metrics.Observe())
	if _, err := manager.Register("gpt-5-mini", llmtest.FakeReply[string]("yes"), llmqueue.WithLimits(llmqueue.RPM(500))); err != nil {
		fmt.Println(err)
		return
	}
	if err := metrics.Add(manager); err != nil {
		fmt.Println(err)
		return
	}
	registry := prometheus.NewRegistry() // or prometheus.MustRegister(metrics)
	registry.MustRegister(metrics)
	page := promhttp.HandlerFor(registry, promhttp.HandlerOpts{}) // for http.Handle("/metrics", …)

	if _, err := manager.Submit(ctx, llmqueue.Request[string]{ModelID: "gpt-5-mini", Params: "Is water wet?"}); err != nil {
		fmt.Println(err)
	}
	if err := manager.Shutdown(ctx); err != nil {
		fmt.Println(err)
	}

	answer := httptest.NewRecorder()
	page.ServeHTTP(answer, httptest.NewRequestWithContext(ctx, http.MethodGet, "/metrics", nil))
	for _, line := range regexp.MustCompile(`(?m)^llmqueue_(accepted|finished|limit_used|wait_seconds_count).*`).FindAllString(answer.Body.String(), -1) {
		fmt.Println(line)
	}
	// Output:
	// llmqueue_accepted_requests_total{model="gpt-5-mini"} 1
	// llmqueue_finished_requests_total{model="gpt-5-mini",status="canceled"} 0
	// llmqueue_finished_requests_total{model="gpt-5-mini",status="completed"} 1
	// llmqueue_finished_requests_total{model="gpt-5-mini",status="failed"} 0
	// llmqueue_limit_used{endpoint="gpt-5-mini",limit="rpm",model="gpt-5-mini",period="1m",scope="own"} 1
	// llmqueue_wait_seconds_count{model="gpt-5-mini"} 1
}

// Two managers that have a model of the same name.
func ExampleCollector_Add_labels() {
	for _, name := range []string{"chat", "batch"} {
		metrics := llmprom.New()
		manager := llmqueue.NewManager[string, string](metrics.Observe())
		if err := metrics.Add(manager); err != nil {
			fmt.Println(err)
		}
		prometheus.WrapRegistererWith(prometheus.Labels{"manager": name}, prometheus.DefaultRegisterer).MustRegister(metrics)
	}
}
