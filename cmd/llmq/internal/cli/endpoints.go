package cli

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/pflag"

	"github.com/llmqueue/llmqueue/cmd/llmq/internal/batch"
	"github.com/llmqueue/llmqueue/cmd/llmq/internal/caller"
)

// endpointFlags name other ways to the models, and other models.
type endpointFlags struct {
	add, fallback []string
}

func (f *endpointFlags) register(fs *pflag.FlagSet) {
	fs.StringArrayVar(&f.add, "add-endpoint", nil, "another `URL[=NAME]` that serves the models, under limits of its own: NAME is the environment variable with its key (default by the host, as of --base-url); may be repeated")
	fs.StringArrayVar(&f.fallback, "fallback", nil, "`model` that takes over what a request's own cannot serve in time; may be repeated, in order")
}

// addEndpoints sets the endpoints beside the first.
func (f *runFlags) addEndpoints(c *batch.Config) (err error) {
	c.Fallback = f.endpoints.fallback
	for i, model := range c.Fallback {
		if model == "" || slices.Contains(c.Fallback[:i], model) {
			return fmt.Errorf("--fallback %q: want the name of a model, each once", model)
		}
	}
	names := map[string]bool{}
	for _, item := range f.endpoints.add {
		url, env := item, ""
		if i := strings.LastIndexByte(item, '='); i >= 0 {
			if url, env = item[:i], item[i+1:]; env == "" {
				return errors.New("--add-endpoint has nothing behind the =: want URL=NAME, with the variable that holds the key")
			}
		}
		p := providerAt(url)
		e := batch.Endpoint{Caller: c.Caller}
		e.Caller.Flag, e.Caller.BaseURL, e.Caller.Auth = "--add-endpoint", url, p.auth
		if f.auth != "" {
			e.Caller.Auth = f.auth
		}
		if e.Accounting, err = f.accountings(p); err != nil {
			return err
		}
		if !f.dryRun {
			if e.Caller.Key, e.Caller.KeyFrom, err = readKey(p, env, ""); err != nil {
				return fmt.Errorf("--add-endpoint%s", strings.TrimPrefix(err.Error(), "--key-env"))
			}
			if _, err := caller.New(e.Caller); err != nil {
				return err
			}
			if e.Name = url + " with " + e.Caller.KeyFrom; names[e.Name] || url == f.baseURL && e.Caller.KeyFrom == c.Caller.KeyFrom {
				return fmt.Errorf("--add-endpoint: %s stands there twice: give each key its own variable", e.Name)
			}
			names[e.Name] = true
		}
		c.Endpoints = append(c.Endpoints, e)
	}
	hidden := []string{c.Caller.Key}
	for _, e := range c.Endpoints {
		hidden = append(hidden, e.Caller.Key)
	}
	c.Caller.Hidden = hidden
	for i := range c.Endpoints {
		c.Endpoints[i].Caller.Hidden = hidden
	}
	return nil
}
