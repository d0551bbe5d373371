package llmhttp

import (
	"flag"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/llmqueue/llmqueue"
)

var updateGuide = flag.Bool("update-guide", false, "write the tables of docs/guides/providers.md anew")

// The tables of the guide say what the package understands: they are made from what it goes by.
func TestGuideSaysWhatIsUnderstood(t *testing.T) {
	const file = "../docs/guides/providers.md"
	const begin, end = "<!-- tables: go test ./llmhttp -run TestGuide -update-guide -->\n", "<!-- end of the tables -->\n"
	guide, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok := strings.Cut(string(guide), begin)
	if !ok {
		t.Fatalf("%s has no line %q", file, begin)
	}
	have, after, ok := strings.Cut(rest, end)
	if !ok {
		t.Fatalf("%s has no line %q", file, end)
	}
	want := guideTables()
	if *updateGuide {
		if err := os.WriteFile(file, []byte(before+begin+want+end+after), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if have != want {
		t.Errorf("%s does not say what the package does; run go test ./llmhttp -run TestGuide -update-guide", file)
	}
}

func guideTables() string {
	var b strings.Builder
	b.WriteString("\n### Who is known by its own words\n\n| Provider | Known by | Words of its own | Source |\n|---|---|---|---|\n")
	sorted := slices.Clone(providers)
	slices.SortFunc(sorted, func(a, b provider) int { return strings.Compare(strings.ToLower(a.name), strings.ToLower(b.name)) })
	for _, p := range sorted {
		known := quoted(strings.Fields(p.hosts))
		for h := range strings.FieldsSeq(p.headers) {
			known = append(known, "header `"+h+"`")
		}
		if p.shape != nil || p.code != nil {
			known = append(known, "its errors' shape")
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s |\n", p.name, strings.Join(known, ", "), meanings(append(slices.Clone(p.rules), p.distinct...)), p.source)
	}

	b.WriteString("\n### Words that mean the same from everyone\n\n| Meaning | Words |\n|---|---|\n")
	own := map[string]bool{}
	for _, r := range distinctRules() {
		own[r.words] = true
	}
	var common []rule
	for _, r := range commonRules {
		if !own[r.words] && r.words != "" && r.says == nil {
			common = append(common, r)
		}
	}
	common = append(common, rule{words: refusedWords, means: elsewhere})
	for _, o := range order {
		if words := wordsOf(common, o); len(words) > 0 {
			fmt.Fprintf(&b, "| %s | %s |\n", o, strings.Join(words, ", "))
		}
	}

	b.WriteString("\n### Usage\n\n| Who says it so | Where | Input | Cached part | Output |\n|---|---|---|---|---|\n")
	for _, s := range usageShapes {
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s |\n", s.of, strings.Join(quoted(strings.Fields(s.at)), ", "),
			strings.Join(quoted(strings.Fields(s.input)), " + "), strings.Join(quoted(strings.Fields(s.cached)), ", "),
			strings.Join(quoted(strings.Fields(s.output)), " + "))
	}
	for _, h := range usageHeaders {
		fmt.Fprintf(&b, "| headers, where the body says nothing | | `%s` | %s | %s |\n", h.input, strings.Join(quoted(strings.Fields(h.cached)), ""), strings.Join(quoted(strings.Fields(h.output)), ""))
	}

	b.WriteString("\n### Words in the names of headers about limits\n\n| What | Words |\n|---|---|\n")
	groups := map[string][]string{}
	for name, w := range headerWords {
		groups[headerGroup(w)] = append(groups[headerGroup(w)], name)
	}
	for _, g := range slices.Sorted(maps.Keys(groups)) {
		slices.Sort(groups[g])
		fmt.Fprintf(&b, "| %s | %s |\n", g, strings.Join(quoted(groups[g]), ", "))
	}
	b.WriteString("\n")
	return b.String()
}

var order = []llmqueue.Outcome{limited, slow, overloaded, exhausted, retryable, elsewhere, fatal}

// meanings says what a provider's own words mean.
func meanings(rules []rule) string {
	var all []string
	for _, o := range order {
		words := wordsOf(rules, o)
		if slices.ContainsFunc(rules, func(r rule) bool { return r.means == o && r.words == "" }) {
			words = append(words, "sentences")
		}
		if len(words) > 0 {
			all = append(all, string(o)+": "+strings.Join(words, ", "))
		}
	}
	return strings.Join(all, "<br>")
}

// wordsOf are the words of rules that mean o.
func wordsOf(rules []rule, o llmqueue.Outcome) []string {
	var words []string
	for _, r := range rules {
		if r.means != o {
			continue
		}
		for _, w := range quoted(strings.Fields(r.words)) {
			if !slices.Contains(words, w) {
				words = append(words, w)
			}
		}
	}
	return words
}

func headerGroup(w headerWord) string {
	switch {
	case w.says == saysLimit:
		return "1. the amount"
	case w.says == saysRemaining:
		return "2. what is left"
	case w.says == saysReset:
		return "3. the reset"
	case w.counts != 0 && w.period != 0:
		return fmt.Sprintf("6. tokens per %v", w.period)
	case w.counts == countsRequests:
		return "4. of requests"
	case w.counts == countsTokens:
		return "5. of tokens"
	case w.counts == countsInput:
		return "5. of tokens, input"
	case w.counts == countsOutput:
		return "5. of tokens, output"
	case w.period != 0:
		return fmt.Sprintf("6. per %v", w.period)
	case w.times != 0:
		return fmt.Sprintf("7. %d times the period", w.times)
	}
	return "8. nothing"
}

func quoted(words []string) []string {
	q := make([]string, len(words))
	for i, w := range words {
		q[i] = "`" + w + "`"
	}
	return q
}
