// Command llmsim serves a simulated LLM provider for clients in any language:
// the server of package llmtest, with limits and faults from flags.
//
//	go run ./llmtest/cmd/llmsim -provider anthropic -rpm 50 -itpm 30000 -otpm 8000
//
// It prints the base URL and how to point an SDK at it, and on Ctrl-C what it
// has seen. Any key is accepted, unless the environment variable LLMSIM_KEY
// holds the only one that is. It listens on loopback; on other addresses only
// with a key.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"

	"github.com/llmqueue/llmqueue/llmtest/simulate"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	err := run(ctx, os.Args[1:], os.Getenv("LLMSIM_KEY"), os.Stdout)
	switch {
	case errors.Is(err, flag.ErrHelp):
	case err != nil:
		fmt.Fprintln(os.Stderr, "llmsim:", err)
		os.Exit(2)
	}
}

// run serves until ctx ends.
func run(ctx context.Context, args []string, key string, out io.Writer) error {
	fs := flag.NewFlagSet("llmsim", flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	cmd := simulate.New(fs)
	cmd.Key, cmd.KeyFrom = key, "LLMSIM_KEY"
	switch err := fs.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		fmt.Fprintln(out, "llmsim serves a simulated LLM provider. LLMSIM_KEY in the environment is the key that it wants.")
		fs.SetOutput(out)
		fs.PrintDefaults()
		return err
	case err != nil:
		return err
	case fs.NArg() > 0:
		return fmt.Errorf("unexpected argument %q: all settings are flags, see -help", fs.Arg(0))
	}
	return cmd.Serve(ctx, out)
}
