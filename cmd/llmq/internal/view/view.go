// Package view writes a file of results as one page of HTML that needs nothing else.
package view

import (
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"html/template"
	"io"

	"github.com/llmqueue/llmqueue/cmd/llmq/internal/answers"
	"github.com/llmqueue/llmqueue/cmd/llmq/internal/prices"
)

var (
	//go:embed view.html
	head string
	//go:embed view.css
	style string
	//go:embed view.js
	script string
)

var page = template.Must(template.New("view").Parse(head))

// policy lets the page's own script and style run, and nothing else: it loads nothing, sends
// nothing and stands in no frame's base.
func policy() string {
	return fmt.Sprintf("default-src 'none'; script-src '%s'; style-src '%s'; base-uri 'none'; form-action 'none'", hash(script), hash(style))
}

// hash is a source expression of www.w3.org/TR/CSP3.
func hash(text string) string {
	sum := sha256.Sum256([]byte(text))
	return "sha256-" + base64.StdEncoding.EncodeToString(sum[:])
}

// Write writes the page of a file of results. Prices may be nil.
func Write(out io.Writer, path, title string, table prices.Table) error {
	err := page.Execute(out, struct {
		Title  string
		Policy string
		Style  template.CSS
	}{title, policy(), template.CSS(style)})
	if err != nil {
		return err
	}
	if _, err := fmt.Fprintf(out, "<script type=\"application/json\" id=\"data\">\n{\"priced\":%t,\"records\":[", table != nil); err != nil {
		return err
	}
	separator := "\n"
	err = answers.Read(path, table, func(a *answers.Answer) error {
		var cost any
		if a.Priced {
			cost = a.Cost
		}
		// As JSON escapes <, > and &, no answer ends the element.
		record, err := json.Marshal([]any{
			a.ID, a.Model, a.Failure, a.Text, a.Usage.InputTokens, a.Usage.OutputTokens, cost, float64(a.Latency.Microseconds()) / 1000, a.Line,
		})
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(out, "%s%s", separator, record)
		separator = ",\n"
		return err
	})
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(out, "\n]}\n</script>\n<script>%s</script>\n</body>\n</html>\n", script)
	return err
}
