package answers

import (
	"encoding/csv"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/llmqueue/llmqueue/cmd/llmq/internal/prices"
)

// Formats are those that Export writes.
var Formats = []string{"csv", "tsv", "text"}

// columns are those of a table.
var columns = []string{
	"custom_id", "line", "model", "failure", "text", "input_tokens", "output_tokens", "cached_input_tokens", "cost_usd",
	"attempts", "latency_ms", "started_at",
}

// Export writes the results of a file in one of Formats. Prices may be nil.
func Export(out io.Writer, path string, table prices.Table, format string) error {
	if format == "text" {
		return Read(path, table, func(a *Answer) error { return a.writeText(out) })
	}
	w := csv.NewWriter(out)
	if format == "tsv" {
		w.Comma = '\t'
	}
	if err := w.Write(columns); err != nil {
		return err
	}
	if err := Read(path, table, func(a *Answer) error { return w.Write(a.row()) }); err != nil {
		return err
	}
	w.Flush()
	return w.Error()
}

// row has the columns. What is not known is empty.
func (a *Answer) row() []string {
	var line, cost, started string
	if a.Line > 0 {
		line = strconv.FormatInt(a.Line, 10)
	}
	if a.Priced {
		cost = strconv.FormatFloat(a.Cost, 'f', -1, 64)
	}
	if !a.StartedAt.IsZero() {
		started = a.StartedAt.UTC().Format(time.RFC3339Nano)
	}
	return []string{
		a.ID, line, a.Model, a.Failure, a.Text,
		strconv.FormatInt(a.Usage.InputTokens, 10), strconv.FormatInt(a.Usage.OutputTokens, 10), strconv.FormatInt(a.Usage.CachedInputTokens, 10),
		cost, strconv.Itoa(a.Attempts), strconv.FormatFloat(float64(a.Latency.Microseconds())/1000, 'f', -1, 64), started,
	}
}

// writeText writes a line about the answer, the answer and an empty line.
func (a *Answer) writeText(out io.Writer) error {
	head := fmt.Sprintf("=== %s · %s · %d tokens in, %d out", a.ID, a.Model, a.Usage.InputTokens, a.Usage.OutputTokens)
	if a.Priced {
		head += fmt.Sprintf(" · $%.6f", a.Cost)
	}
	if a.Failure != "" {
		head += " · failed: " + a.Failure
	}
	_, err := fmt.Fprintf(out, "%s\n%s\n\n", head, strings.TrimRight(a.Text, "\n"))
	return err
}
