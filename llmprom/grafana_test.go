package llmprom_test

import (
	"encoding/json"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// grafana is what the tests know of a Grafana dashboard.
type grafana struct {
	Title      string
	Templating struct {
		List []struct {
			Name, Type, Definition string
			Datasource             struct{ Type, UID string }
		}
	}
	Panels []struct {
		ID          int
		Type, Title string
		Description string
		Datasource  struct{ Type, UID string }
		GridPos     struct{ X, Y, W, H int }
		Targets     []struct {
			RefID, Expr, LegendFormat string
			Datasource                struct{ Type, UID string }
		}
	}
}

func readGrafana(t *testing.T) grafana {
	t.Helper()
	data, err := os.ReadFile("../docs/grafana/llmqueue.json")
	require.NoError(t, err)
	var g grafana
	require.NoError(t, json.Unmarshal(data, &g))
	require.Greater(t, len(g.Panels), 10)
	return g
}

// family is a metric with the labels that its series have, as a query may name them.
type family struct {
	counter bool
	labels  []string
}

// families are all metrics of a collector that has at least one series of each.
func families(t *testing.T, g prometheus.Gatherer) map[string]family {
	t.Helper()
	gathered, err := g.Gather()
	require.NoError(t, err)
	all := map[string]family{}
	for _, f := range gathered {
		var labels []string
		for _, l := range f.GetMetric()[0].GetLabel() {
			labels = append(labels, l.GetName())
		}
		switch f.GetType() {
		case dto.MetricType_HISTOGRAM:
			all[f.GetName()+"_bucket"] = family{true, append(slices.Clone(labels), "le")}
			all[f.GetName()+"_count"], all[f.GetName()+"_sum"] = family{true, labels}, family{true, labels}
		default:
			all[f.GetName()] = family{f.GetType() == dto.MetricType_COUNTER, labels}
		}
	}
	return all
}

// token is one word of PromQL, as far as the dashboard uses it. Whatever else stands in
// a query fails the test.
var token = regexp.MustCompile(`^(?:\s+|([a-zA-Z_:][a-zA-Z0-9_:]*)|("(?:[^"\\]|\\.)*")|([0-9][0-9.e-]*)|(\[\$__rate_interval\])|(=~|!~|!=|==|>=|<=|[-+*/(){},=<>]))`)

// checkQuery says what is wrong with a query: an unknown word or metric, a label that
// the metric does not have, a counter without rate or a gauge with it, brackets that do
// not match. It returns the labels that the query's result has.
func checkQuery(expr string, known map[string]family) (result []string, problems []string) {
	wrong := func(format string, args ...any) { problems = append(problems, fmt.Sprintf(format, args...)) }
	var tokens []string
	for rest := expr; rest != ""; {
		m := token.FindString(rest)
		if m == "" {
			wrong("cannot read %q", rest)
			return nil, problems
		}
		if strings.TrimSpace(m) != "" {
			tokens = append(tokens, m)
		}
		rest = rest[len(m):]
	}
	at := func(i int) string {
		if i < 0 || i >= len(tokens) {
			return ""
		}
		return tokens[i]
	}
	var open, metrics, by, without []string
	of, outermost := "", true // the metric whose labels are selected; no by yet
	for i := 0; i < len(tokens); i++ {
		tok := tokens[i]
		if problem := match(&open, tok); problem != "" {
			wrong("%s", problem)
		}
		if tok == "{" {
			of = at(i - 1)
		}
		if c := tok[0]; c != '_' && (c < 'a' || c > 'z') {
			continue
		}
		f, isMetric := known[tok]
		switch {
		case slices.Contains(open, "{"):
			if !slices.Contains(known[of].labels, tok) {
				wrong("%s has no label %s, it has %v", of, tok, known[of].labels)
			}
			if !slices.Contains([]string{"=", "=~", "!=", "!~"}, at(i+1)) {
				wrong("label %s has no matcher", tok)
			}
		case isMetric:
			metrics = append(metrics, tok)
			if rated := at(i-1) == "(" && (at(i-2) == "rate" || at(i-2) == "increase"); rated != f.counter {
				wrong("%s: rate and increase are for counters, and for all of them", tok)
			}
			if at(i+1) != "{" {
				wrong("%s does not select models", tok)
			}
		case tok == "by" || tok == "without":
			var labels []string
			for i++; at(i) != ")" && at(i) != ""; i++ {
				if at(i) != "(" && at(i) != "," {
					labels = append(labels, at(i))
				}
			}
			if at(i) != ")" {
				wrong("%s is not closed", tok)
			}
			if tok == "without" {
				without = append(without, labels...)
			} else if by = append(by, labels...); outermost {
				result = slices.DeleteFunc(labels, func(l string) bool { return l == "le" }) // the quantile takes it
			}
			outermost = false
		case slices.Contains([]string{"sum", "max", "min", "count", "rate", "increase", "histogram_quantile", "vector", "or"}, tok):
		default:
			wrong("unknown word or metric %s", tok)
		}
	}
	if len(open) > 0 {
		wrong("%v is not closed", open)
	}
	if len(metrics) == 0 {
		wrong("no metric in it")
	}
	for _, metric := range metrics {
		for _, l := range by {
			if !slices.Contains(known[metric].labels, l) {
				wrong("%s has no label %s, it has %v", metric, l, known[metric].labels)
			}
		}
	}
	for _, l := range without {
		if !slices.ContainsFunc(metrics, func(metric string) bool { return slices.Contains(known[metric].labels, l) }) {
			wrong("%v have no label %s", metrics, l)
		}
	}
	return result, problems
}

// match keeps the brackets that are open.
func match(open *[]string, tok string) string {
	switch tok {
	case "(", "{":
		*open = append(*open, tok)
	case ")", "}":
		n := len(*open)
		if n == 0 || (*open)[n-1] != map[string]string{")": "(", "}": "{"}[tok] {
			return tok + " closes nothing"
		}
		*open = (*open)[:n-1]
	}
	return ""
}

// Each query of the Grafana dashboard names metrics and labels that the collector has,
// and each legend labels that the query's result has.
//
// Faults seen to fail here, in the dashboard: a metric or a label misspelled in a query,
// in by, in a legend or in a variable; rate left out, or put around a gauge; a bracket
// too many; another data source; two panels on one place.
func TestGrafanaDashboardFitsTheCollector(t *testing.T) {
	s := newService(t)
	s.load(t.Context(), 3)
	require.NoError(t, s.manager.Shutdown(t.Context()))
	known := families(t, registered(t, s.metrics))
	g := readGrafana(t)

	variables := map[string]string{}
	for _, v := range g.Templating.List {
		variables[v.Name] = v.Type
		if v.Type == "query" {
			assert.Equal(t, "${datasource}", v.Datasource.UID, "variable %s", v.Name)
			m := regexp.MustCompile(`^label_values\((\w+), (\w+)\)$`).FindStringSubmatch(v.Definition)
			require.NotNil(t, m, v.Definition)
			assert.Contains(t, known, m[1], "variable %s", v.Name)
			assert.Contains(t, known[m[1]].labels, m[2], "variable %s", v.Name)
		}
	}
	assert.Equal(t, map[string]string{"datasource": "datasource", "model": "query"}, variables)

	ids, taken := map[int]bool{}, map[[2]int]string{}
	for _, p := range g.Panels {
		assert.False(t, ids[p.ID], "panel %q has the id of another", p.Title)
		ids[p.ID] = true
		for x := range p.GridPos.W {
			for y := range p.GridPos.H {
				place := [2]int{p.GridPos.X + x, p.GridPos.Y + y}
				assert.Empty(t, taken[place], "panel %q lies over another", p.Title)
				taken[place] = p.Title
			}
		}
		if p.Type == "row" {
			continue
		}
		assert.NotEmpty(t, p.Description, p.Title)
		require.NotEmpty(t, p.Targets, p.Title)
		assert.Equal(t, "${datasource}", p.Datasource.UID, p.Title)
		for _, q := range p.Targets {
			assert.Equal(t, "${datasource}", q.Datasource.UID, p.Title)
			result, problems := checkQuery(q.Expr, known)
			assert.Empty(t, problems, "panel %q, query %s", p.Title, q.Expr)
			for _, m := range regexp.MustCompile(`{{\s*(\w+)\s*}}`).FindAllStringSubmatch(q.LegendFormat, -1) {
				assert.Contains(t, result, m[1], "panel %q: the legend %q of %s", p.Title, q.LegendFormat, q.Expr)
			}
		}
	}
}

// What the dashboard's test would not notice, it would not be worth having for.
func TestCheckQueryIsStrict(t *testing.T) {
	known := map[string]family{
		"a_total":  {true, []string{"model"}},
		"b":        {false, []string{"model", "endpoint"}},
		"c_bucket": {true, []string{"model", "le"}},
	}
	for _, good := range []string{
		`60 * sum by (model) (rate(a_total{model=~"$model"}[$__rate_interval]))`,
		`histogram_quantile(0.5, sum by (le, model) (rate(c_bucket{model=~"$model"}[$__rate_interval])))`,
		`count((min without (endpoint) (b{model=~"$model"})) == 1) or vector(0)`,
	} {
		_, problems := checkQuery(good, known)
		assert.Empty(t, problems, good)
	}
	for bad, want := range map[string]string{
		`sum(rate(a_totl{model=~"$model"}[$__rate_interval]))`:                  "unknown word or metric a_totl",
		`sum by (modl) (rate(a_total{model=~"$model"}[$__rate_interval]))`:      "a_total has no label modl",
		`sum by (model, endpoint) (rate(a_total{model="x"}[$__rate_interval]))`: "a_total has no label endpoint",
		`sum(rate(a_total{modell=~"$model"}[$__rate_interval]))`:                "a_total has no label modell",
		`sum(a_total{model=~"$model"})`:                                         "for counters, and for all of them",
		`sum(rate(b{model=~"$model"}[$__rate_interval]))`:                       "for counters, and for all of them",
		`sum(b)`:                               "does not select models",
		`sum(b{model=~"$model"}))`:             ") closes nothing",
		`sum(b{model=~"$model"}`:               "is not closed",
		`sum(b{model=~"$model"}[5 days])`:      "cannot read",
		`avg(b{model=~"$model"})`:              "unknown word or metric avg",
		`b{model}`:                             "has no matcher",
		`min without (endpoit) (b{model="x"})`: "have no label endpoit",
		`1 + 1`:                                "no metric",
	} {
		_, problems := checkQuery(bad, known)
		assert.Contains(t, strings.Join(problems, "; "), want, bad)
	}
}
