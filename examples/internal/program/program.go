// Package program is the frame that all examples share: a context that ends on
// Ctrl-C, and an exit status with one clear line when something is wrong.
package program

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
)

// Main runs one example and exits: 0 when run returns nil or the user asked for
// help, 2 on bad input, 130 after Ctrl-C, 1 on any other error.
func Main(name string, run func(ctx context.Context, args []string, stdout io.Writer) error) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second Ctrl-C ends the process at once
	err := run(ctx, os.Args[1:], os.Stdout)
	switch {
	case err == nil, errors.Is(err, flag.ErrHelp):
		return
	case errors.As(err, new(usageError)):
		fmt.Fprintf(os.Stderr, "%s: %v (see -h)\n", name, err)
		os.Exit(2)
	case ctx.Err() != nil:
		fmt.Fprintf(os.Stderr, "%s: stopped: %v\n", name, err)
		os.Exit(130)
	default:
		fmt.Fprintf(os.Stderr, "%s: %v\n", name, err)
		os.Exit(1)
	}
}

// BadInput returns an error that Main reports as a mistake in the arguments.
func BadInput(format string, a ...any) error {
	return usageError{fmt.Errorf(format, a...)}
}

type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

// Parse parses args into flags and refuses arguments that are not flags. Help
// goes to stdout; a mistake is returned, in one line, and printed by Main.
func Parse(flags *flag.FlagSet, args []string, stdout io.Writer) error {
	flags.Init(flags.Name(), flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	switch err := flags.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		fmt.Fprintf(stdout, "Usage of %s:\n", flags.Name())
		flags.SetOutput(stdout)
		flags.PrintDefaults()
		return err
	case err != nil:
		return BadInput("%w", err)
	}
	if flags.NArg() > 0 {
		return BadInput("unexpected argument %q", flags.Arg(0))
	}
	return nil
}
