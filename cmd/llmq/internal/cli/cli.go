// Package cli is the command line of llmq.
package cli

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"strings"

	"github.com/spf13/cobra"

	"github.com/llmqueue/llmqueue/cmd/llmq/internal/batch"
	"github.com/llmqueue/llmqueue/cmd/llmq/internal/results"
)

// The exit codes.
const (
	exitDone        = 0
	exitFailures    = 1
	exitUsage       = 2
	exitProvider    = 3
	exitMoney       = 4
	exitOutput      = 5
	exitChanged     = 6
	exitInterrupted = 130
)

const exitCodes = `Exit codes:
  0    every request is answered
  1    the run is through, but some requests failed: see llmq retry
  2    wrong flags, configuration or input, or the output is a file that is not llmq's
  3    the provider cannot be used: wrong key, wrong address, host not reached, or
       --max-failures in a row
  4    stopped for money: --budget-usd, --max-cost, or the provider's quota
  5    the output cannot be written, or another llmq writes it
  6    the output was removed, replaced or changed while the run wrote it
  130  interrupted: run the same command again to go on`

// exitError is an error with its code. Its text may be empty: all is said already.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string {
	if e.err == nil {
		return ""
	}
	return e.err.Error()
}
func (e *exitError) Unwrap() error { return e.err }

// usage is an error of who called.
func usage(format string, args ...any) error {
	return &exitError{exitUsage, fmt.Errorf(format, args...)}
}

// Main runs a command line and returns its exit code. An error is one line on stderr.
func Main(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	root := newRoot(stdin, stdout, stderr)
	root.SetArgs(args)
	err := root.Execute()
	if err == nil {
		return exitDone
	}
	code := exitUsage
	if e := (*exitError)(nil); errors.As(err, &e) {
		code = e.code
	}
	if text := err.Error(); text != "" {
		fmt.Fprintln(stderr, "llmq:", strings.ReplaceAll(text, "\n", "; "))
	}
	return code
}

func newRoot(stdin io.Reader, stdout, stderr io.Writer) *cobra.Command {
	root := &cobra.Command{
		Use:   "llmq",
		Short: "Run files of LLM requests as fast as the provider's limits allow",
		Long: `llmq takes a file of requests, runs them against a provider as fast as its limits
allow, and writes a file of answers. It refuses to be refused: what the limits do not
let through waits. Run again after a crash, it goes on where it stopped.

` + exitCodes,
		Example: `  # try it without a key: a provider that enforces limits, in another terminal
  llmq simulate --rpm 500 --tpm 200000

  # run a file against it, then see how that went
  llmq run requests.jsonl -o results.jsonl --base-url http://127.0.0.1:8080/v1 --rpm 500 --tpm 200000
  llmq stats results.jsonl --chart results.svg`,
		SilenceUsage: true, SilenceErrors: true,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.Version = version()
	root.SetVersionTemplate("llmq {{.Version}}\n")
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return usage("%w: see %s --help", err, cmd.CommandPath())
	})
	root.AddCommand(newRun(false), newRun(true), newServe(), newStats(), newExport(), newView(), newSimulate())
	return root
}

// version is that of the module, as it was installed or built, and the commit it is from.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "(unknown)"
	}
	text := cmp.Or(info.Main.Version, "(devel)")
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" && !strings.Contains(text, s.Value[:min(12, len(s.Value))]) {
			text += " " + s.Value
		}
	}
	return text + " " + info.GoVersion
}

// ended turns how a run ended into the command's error.
func ended(s batch.Summary, err error) error {
	e := (*batch.Error)(nil)
	if err != nil && !errors.As(err, &e) {
		return &exitError{exitOutput, err}
	}
	if e == nil {
		if s.Failed > 0 {
			return &exitError{code: exitFailures}
		}
		return nil
	}
	code := map[batch.Reason]int{
		batch.Interrupted: exitInterrupted, batch.OverBudget: exitMoney, batch.NoQuota: exitMoney,
		batch.Unusable: exitProvider, batch.Failing: exitProvider, batch.BadInput: exitUsage, batch.CannotWrite: exitOutput,
		batch.Taken: exitChanged,
	}[e.Reason]
	if errors.Is(err, results.ErrBusy) {
		code = exitOutput
	}
	return &exitError{code, err}
}

// isTerminal reports whether w is a terminal.
func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && isTTY(f)
}
