package cli

import (
	"io"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/llmqueue/llmqueue/cmd/llmq/internal/view"
)

func newView() *cobra.Command {
	var output, pricesFile string
	cmd := &cobra.Command{
		Use:   "view RESULTS",
		Short: "Write a file of results as one HTML page to search and filter",
		Long: `View reads a file of results, also while a run writes it and also one of OpenAI's Batch
API, and writes one HTML page with the latest result of each request: to search, to filter
by failure and model, and to order by tokens, cost and latency. The page holds all it
needs, asks nobody for anything, and shows answers as plain text. It has the answers in
it: whoever gets the page can read them.`,
		Example: `  llmq view results.jsonl
  llmq view results.jsonl --prices prices.yaml -o results.html`,
		Args: oneFile("results", "results.jsonl"),
		RunE: func(cmd *cobra.Command, args []string) error {
			table, err := readPrices(pricesFile)
			if err != nil {
				return err
			}
			if output == "" {
				output = args[0] + ".html"
			}
			return asUsage(writeOutput(cmd.OutOrStdout(), output, args[0], func(w io.Writer) error {
				return view.Write(w, args[0], filepath.Base(args[0]), table)
			}))
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "", "`file` to write, - for stdout (default RESULTS.html)")
	cmd.Flags().StringVar(&pricesFile, "prices", "", "YAML or JSON `file` of prices, for the cost")
	return cmd
}
