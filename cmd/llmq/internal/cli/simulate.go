package cli

import (
	"context"
	"flag"
	"os"
	"os/signal"

	"github.com/spf13/cobra"

	"github.com/llmqueue/llmqueue/llmtest/simulate"
)

func newSimulate() *cobra.Command {
	fs := flag.NewFlagSet("simulate", flag.ContinueOnError)
	server := simulate.New(fs)
	cmd := &cobra.Command{
		Use:   "simulate",
		Short: "Serve a simulated provider on loopback, to try everything without a key",
		Long: `Simulate serves a provider that speaks as a real one does, enforces limits, and fails as
often as it is told to. Nothing leaves the machine. Any key is accepted, unless
LLMQ_API_KEY in its environment holds the only one that is.`,
		Example: `  llmq simulate --rpm 500 --tpm 200000
  llmq simulate --provider anthropic --rpm 50 --itpm 30000 --otpm 8000 --listen 127.0.0.1:9090
  llmq simulate --rpm 60 --tpm 20000 --period 2s --faults 0.02:503,0.01:cut`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			server.Key, server.KeyFrom = os.Getenv(other.keyEnv), other.keyEnv
			ctx, stop := signal.NotifyContext(orBackground(cmd.Context()), endSignals...)
			defer stop()
			if err := server.Serve(ctx, cmd.OutOrStdout()); err != nil {
				return usage("%w", err)
			}
			return nil
		},
	}
	cmd.Flags().AddGoFlagSet(fs)
	return cmd
}

func orBackground(ctx context.Context) context.Context {
	if ctx == nil {
		return context.Background()
	}
	return ctx
}
