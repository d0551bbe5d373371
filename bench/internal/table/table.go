// Package table prints tables for people and for documents.
package table

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
)

// Table has as many cells in each row as in its header.
type Table struct {
	Title  string
	Header []string
	Rows   [][]string
}

// Text prints columns.
func (t Table) Text(w io.Writer) error {
	fmt.Fprintln(w, t.Title)
	columns := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, row := range append([][]string{t.Header}, t.Rows...) {
		fmt.Fprintln(columns, "  "+strings.Join(row, "\t"))
	}
	return columns.Flush()
}

// Markdown prints a table in the flavor of GitHub.
func (t Table) Markdown(w io.Writer) error {
	rule := make([]string, len(t.Header))
	for i := range rule {
		rule[i] = "---"
	}
	var b strings.Builder
	fmt.Fprintf(&b, "**%s**\n\n", t.Title)
	fmt.Fprintf(&b, "| %s |\n|%s|\n", strings.Join(t.Header, " | "), strings.Join(rule, "|"))
	for _, row := range t.Rows {
		fmt.Fprintf(&b, "| %s |\n", strings.Join(row, " | "))
	}
	_, err := io.WriteString(w, b.String())
	return err
}
