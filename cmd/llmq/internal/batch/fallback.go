package batch

import (
	"fmt"
	"slices"
	"strings"

	"github.com/llmqueue/llmqueue/cmd/llmq/internal/requests"
)

// fallbacks are the models that take over what a model cannot serve: those behind it in the
// list, or all.
func (c *Config) fallbacks(model string) []string {
	return c.Fallback[slices.Index(c.Fallback, model)+1:]
}

// checkFallbacks refuses a fallback without a price.
func (r *run) checkFallbacks() error {
	for _, model := range r.Fallback {
		if _, ok := r.Prices.Of(model); r.Prices != nil && !ok {
			return fail(BadInput, fmt.Errorf("no price for the model %q of --fallback: add it to the --prices file", model))
		}
	}
	return nil
}

// asksOf is what is sent to a model: the request, with its model there in place of its own,
// in the body and in the path.
func (it *item) asksOf(model string) *requests.Request {
	asks := it.asks()
	if model == asks.Model {
		return asks
	}
	other := *asks
	other.Model, other.Body = model, requests.WithModel(asks.Body, model)
	for _, end := range []string{"/", ":"} {
		other.Path = strings.Replace(other.Path, "/"+asks.Model+end, "/"+model+end, 1)
	}
	return &other
}
