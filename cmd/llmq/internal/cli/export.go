package cli

import (
	"errors"
	"io"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/llmqueue/llmqueue/cmd/llmq/internal/answers"
	"github.com/llmqueue/llmqueue/cmd/llmq/internal/prices"
)

func newExport() *cobra.Command {
	var output, format, pricesFile string
	cmd := &cobra.Command{
		Use:   "export RESULTS",
		Short: "Write the answers of a file of results as CSV, TSV or plain text",
		Long: `Export reads a file of results, also while a run writes it and also one of OpenAI's Batch
API, and writes the latest result of each request: its id, the answer as text or why it
failed, tokens, and the cost with --prices. Texts are as they came: a spreadsheet may
take one that begins with = for a formula.`,
		Example: `  llmq export results.jsonl -o answers.csv
  llmq export results.jsonl --format text | less
  llmq export results.jsonl --prices prices.yaml -o answers.tsv`,
		Args: oneFile("results", "results.jsonl"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if format == "" {
				format = formatOf(output)
			}
			if !slices.Contains(answers.Formats, format) {
				return usage("--format %q: want %s", format, strings.Join(answers.Formats, ", "))
			}
			table, err := readPrices(pricesFile)
			if err != nil {
				return err
			}
			return asUsage(writeOutput(cmd.OutOrStdout(), output, args[0], func(w io.Writer) error {
				return answers.Export(w, args[0], table, format)
			}))
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "", "`file` to write (default stdout)")
	cmd.Flags().StringVar(&format, "format", "", "csv, tsv or text (default as the name of the output ends, else csv)")
	cmd.Flags().StringVar(&pricesFile, "prices", "", "YAML or JSON `file` of prices, for the cost")
	_ = cmd.RegisterFlagCompletionFunc("format", cobra.FixedCompletions(answers.Formats, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

// formatOf is the format that the name of an output asks for.
func formatOf(name string) string {
	switch strings.ToLower(filepath.Ext(name)) {
	case ".tsv":
		return "tsv"
	case ".txt", ".text":
		return "text"
	}
	return "csv"
}

// readPrices reads a file of prices if there is one.
func readPrices(path string) (prices.Table, error) {
	if path == "" {
		return nil, nil
	}
	table, err := prices.Read(path)
	return table, asUsage(err)
}

// asUsage is an error of who called, unless it has a code already.
func asUsage(err error) error {
	if e := (*exitError)(nil); err == nil || errors.As(err, &e) {
		return err
	}
	return usage("%w", err)
}
