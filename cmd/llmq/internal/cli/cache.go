package cli

import (
	"github.com/spf13/pflag"

	"github.com/llmqueue/llmqueue/cmd/llmq/internal/batch"
	"github.com/llmqueue/llmqueue/cmd/llmq/internal/cache"
)

// cacheFlags say where answers are kept across runs.
type cacheFlags struct{ dir string }

func (f *cacheFlags) register(fs *pflag.FlagSet) {
	fs.StringVar(&f.dir, "cache", "", "`folder` of answers: a request that it has the answer to is not sent, and answers are kept there")
}

func (f *cacheFlags) apply(c *batch.Config) {
	if f.dir != "" {
		c.Cache = cache.New(f.dir)
	}
}
