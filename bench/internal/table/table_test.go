package table

import (
	"strings"
	"testing"
)

func TestTable(t *testing.T) {
	table := Table{
		Title:  "Fruit",
		Header: []string{"", "Weight"},
		Rows:   [][]string{{"apple", "150 g"}, {"strawberry", "12 g"}},
	}
	var text, markdown strings.Builder
	if err := table.Text(&text); err != nil {
		t.Fatal(err)
	}
	if err := table.Markdown(&markdown); err != nil {
		t.Fatal(err)
	}
	if got, want := text.String(), `Fruit
              Weight
  apple       150 g
  strawberry  12 g
`; got != want {
		t.Errorf("text:\n%s\nwant:\n%s", got, want)
	}
	if got, want := markdown.String(), `**Fruit**

|  | Weight |
|---|---|
| apple | 150 g |
| strawberry | 12 g |
`; got != want {
		t.Errorf("Markdown:\n%s\nwant:\n%s", got, want)
	}
}
