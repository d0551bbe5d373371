package dashboard_test

import (
	"context"
	"fmt"
	"net/http"

	"github.com/llmqueue/llmqueue"
	"github.com/llmqueue/llmqueue/dashboard"
	"github.com/llmqueue/llmqueue/llmtest"
)

func ExampleHandler() {
	manager := llmqueue.NewManager[string, string]()
	manager.Register("gpt-5-mini", llmtest.FakeReply[string]("yes"), llmqueue.WithLimits(llmqueue.RPM(500)))

	mux := http.NewServeMux()
	mux.Handle("/debug/llmqueue/", dashboard.Handler(manager))
	// Output:
}

// The buttons, and the results that may be seen.
func ExamplePage_WithFormatter() {
	manager := llmqueue.NewManager[string, string]()
	page := dashboard.Handler(manager).WithControls(manager).WithFormatter(
		func(_ context.Context, _ llmqueue.Inspector, modelID, requestID string) string {
			resp, err := manager.Status(modelID, requestID)
			if err != nil {
				return err.Error()
			}
			return fmt.Sprintf("%d characters", len(resp.Result))
		})
	http.Handle("/debug/llmqueue/", page)
	// Output:
}
