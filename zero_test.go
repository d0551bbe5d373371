package llmqueue_test

import (
	"context"
	"slices"
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/llmqueue/llmqueue"
)

// A Queue or Manager that was declared instead of made says how one is made. A user would
// see a nil map, or nothing at all because it hangs.
func TestZeroQueueSaysHowOneIsMade(t *testing.T) {
	q := new(llmqueue.Queue[int, int])
	all := func() (err error) {
		for _, err = range q.SubmitAll(t.Context(), slices.Values([]llmqueue.Request[int]{{}})) {
		}
		return err
	}
	saysHow(t, "NewQueue", map[string]func() error{
		"Submit":            func() error { _, err := q.Submit(t.Context(), llmqueue.Request[int]{}); return err },
		"Submit, NoWait":    func() error { _, err := q.Submit(t.Context(), llmqueue.Request[int]{NoWait: true}); return err },
		"Do":                func() error { _, err := q.Do(t.Context(), 1); return err },
		"SubmitAll":         all,
		"Wait":              func() error { _, err := q.Wait(t.Context(), "r"); return err },
		"Status":            func() error { _, err := q.Status("r"); return err },
		"Cancel":            func() error { return q.Cancel("r") },
		"Reclaim":           func() error { _, err := q.Reclaim("r", nil); return err },
		"UpdateUsage":       func() error { return q.UpdateUsage("r", llmqueue.Usage{}) },
		"Forecast":          func() error { _, err := q.Forecast(t.Context(), llmqueue.Request[int]{}); return err },
		"SetLimits":         func() error { return q.SetLimits(llmqueue.RPM(1)) },
		"SetEndpointLimits": func() error { return q.SetEndpointLimits("e", llmqueue.RPM(1)) },
		"AddEndpoint":       func() error { return q.AddEndpoint("e", give, llmqueue.WithUnlimited()) },
		"RemoveEndpoint":    func() error { return q.RemoveEndpoint(t.Context(), "e") },
		"Shutdown":          func() error { return q.Shutdown(t.Context()) },
	})
	saysNothing(t, map[string]func() any{
		"ModelID":  func() any { return q.ModelID() },
		"Len":      func() any { return q.Len() },
		"Info":     func() any { i := q.Info(); return i.Accepted + int64(len(i.Limits)) },
		"Requests": func() any { return len(q.Requests(llmqueue.RequestFilter{Limit: 10})) },
		"Pause":    func() any { q.Pause(); return 0 },
		"Resume":   func() any { q.Resume(); return 0 },
	})
}

func TestZeroManagerSaysHowOneIsMade(t *testing.T) {
	m := new(llmqueue.Manager[int, int])
	all := func() (err error) {
		for _, err = range m.SubmitAll(t.Context(), slices.Values([]llmqueue.Request[int]{{ModelID: "m"}})) {
		}
		return err
	}
	saysHow(t, "NewManager", map[string]func() error{
		"Register": func() error { _, err := m.Register("m", give, llmqueue.WithUnlimited()); return err },
		"RegisterAll": func() error {
			return m.RegisterAll([]llmqueue.ModelConfig{{ModelID: "m", Limits: []llmqueue.Limit{llmqueue.RPM(1)}}}, give)
		},
		"Unregister":  func() error { return m.Unregister(t.Context(), "m") },
		"Submit":      func() error { _, err := m.Submit(t.Context(), llmqueue.NewRequest("m", 1)); return err },
		"SubmitAll":   all,
		"Wait":        func() error { _, err := m.Wait(t.Context(), "m", "r"); return err },
		"Status":      func() error { _, err := m.Status("m", "r"); return err },
		"Cancel":      func() error { return m.Cancel("m", "r") },
		"UpdateUsage": func() error { return m.UpdateUsage("m", "r", llmqueue.Usage{}) },
		"Forecast":    func() error { _, err := m.Forecast(t.Context(), llmqueue.NewRequest("m", 1)); return err },
		"SetLimits":   func() error { return m.SetLimits("m", llmqueue.RPM(1)) },
		"Info":        func() error { _, err := m.Info("m"); return err },
		"Requests":    func() error { _, err := m.Requests("m", llmqueue.RequestFilter{}); return err },
		"Pause":       func() error { return m.Pause("m") },
		"Resume":      func() error { return m.Resume("m") },
		"Shutdown":    func() error { return m.Shutdown(context.Background()) },
	})
	saysNothing(t, map[string]func() any{
		"Models":  func() any { return len(m.Models()) },
		"InfoAll": func() any { return len(m.InfoAll()) },
		"Queue":   func() any { q, ok := m.Queue("m"); return q == nil && ok },
	})
}

// saysHow wants an error that names the function to use.
func saysHow(t *testing.T, maker string, methods map[string]func() error) {
	t.Helper()
	for name, f := range methods {
		t.Run(name, func(t *testing.T) {
			var err error
			returns(t, name, func() { assert.NotPanics(t, func() { err = f() }) })
			if assert.ErrorIs(t, err, llmqueue.ErrInvalidConfiguration) {
				assert.ErrorContains(t, err, maker)
			}
		})
	}
}

// saysNothing wants a zero value.
func saysNothing(t *testing.T, methods map[string]func() any) {
	t.Helper()
	for name, f := range methods {
		t.Run(name, func(t *testing.T) {
			returns(t, name, func() { assert.NotPanics(t, func() { assert.Zero(t, f()) }) })
		})
	}
}
