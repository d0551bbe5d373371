package doctest

import (
	"fmt"
	"math"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// measurements is the one document in which figures are written down when they were measured.
const measurements = "docs/performance.md"

// TestFiguresAreMeasured holds the README and the guides to the measurements: what they
// claim stands there, to the digits that they show.
func TestFiguresAreMeasured(t *testing.T) {
	text, _, _ := strings.Cut(read(t, measurements), "\n## What was tried") // figures of the past
	measured := figures(measurements, text)
	require.NotEmpty(t, measured)
	for _, table := range makespans(text) {
		for _, row := range table { // their columns name the unit, not their cells
			measured = append(measured, figures(measurements, row)...)
		}
	}
	for _, path := range claiming(t) {
		claims := figures(path, read(t, path))
		if path != "README.md" { // a guide's percentages are settings as often
			claims = slices.DeleteFunc(claims, func(f figure) bool { return strings.HasSuffix(f.text, "%") })
		}
		for _, wrong := range unmeasured(claims, measured) {
			t.Error(wrong)
		}
	}
}

// TestMakespanIsTold compares each row that has the makespan of several contestants with the
// table of that way of enforcing limits, and lets no document that shows the chart be silent
// about a refusal of llmqueue's that stands in it.
func TestMakespanIsTold(t *testing.T) {
	tables := makespans(read(t, measurements))
	require.NotEmpty(t, tables, "%s has no makespan", measurements)
	for _, path := range claiming(t) {
		for _, wrong := range retold(path, read(t, path), tables) {
			t.Error(wrong)
		}
	}
}

// claiming lists the documents whose figures are checked.
func claiming(t *testing.T) []string {
	guides, err := filepath.Glob(filepath.Join(root, "docs/guides/*.md"))
	require.NoError(t, err)
	paths := []string{"README.md"}
	for _, guide := range guides {
		paths = append(paths, "docs/guides/"+filepath.Base(guide))
	}
	return paths
}

// figure is a number that can only come from a measurement, by its unit.
type figure struct {
	path  string
	line  int
	text  string
	unit  string  // ×, ns, refused, % or B
	value float64 // in that unit
	half  float64 // of its last digit
}

// claim finds ratios, short times, refusals, use of a quota and memory by the byte. A range
// such as 1.02–1.04× is two of them. Times in ms and s, and sizes in KB, are settings too often.
var claim = regexp.MustCompile(`(\d[\d,]*(?:\.\d+)?)(?:–(\d[\d,]*(?:\.\d+)?))?(\s?×|\s?ns\b|\s?µs\b| refused|%(?: of the quota)?| B\b)`)

// address is where a link or an image leads.
var address = regexp.MustCompile(`\]\([^)]*\)`)

// target is what was wanted, not what was measured.
var target = regexp.MustCompile(`[≤≥]\s?[\d.,]+\s?(?:×|%|ns|µs|B)?`)

// figures gives those of a document, outside of blocks of code.
func figures(path, text string) []figure {
	var found []figure
	fenced, n := false, 0
	for line := range strings.Lines(text) {
		n++
		if strings.HasPrefix(strings.TrimSpace(line), "```") {
			fenced = !fenced
		}
		if fenced {
			continue
		}
		line = address.ReplaceAllString(inlineCode.ReplaceAllString(line, ""), "")
		for _, m := range claim.FindAllStringSubmatch(target.ReplaceAllString(line, ""), -1) {
			for _, number := range m[1:3] {
				if number != "" {
					found = append(found, parseFigure(path, n, number, strings.TrimSpace(m[3])))
				}
			}
		}
	}
	return found
}

func parseFigure(path string, line int, number, unit string) figure {
	f := figure{path: path, line: line, text: number + unit, unit: unit}
	if unit != "×" && unit[0] != '%' {
		f.text = number + " " + unit
	}
	digits := strings.ReplaceAll(number, ",", "")
	f.value, _ = strconv.ParseFloat(digits, 64)
	f.half = 0.5
	if _, decimals, ok := strings.Cut(digits, "."); ok {
		f.half = 0.5 * math.Pow10(-len(decimals))
	}
	switch unit {
	case "µs":
		f.unit, f.value, f.half = "ns", f.value*1000, f.half*1000
	case "% of the quota":
		f.unit = "%"
	}
	return f
}

// unmeasured says where a figure stands that no measurement rounds to.
func unmeasured(claims, measured []figure) []string {
	var wrong []string
	for _, f := range claims {
		if !slices.ContainsFunc(measured, func(m figure) bool {
			return m.unit == f.unit && math.Abs(m.value-f.value) <= f.half*(1+1e-9)
		}) {
			wrong = append(wrong, fmt.Sprintf("%s:%d: %s is not in %s: measure it and write it down there first, or correct it here",
				f.path, f.line, f.text, measurements))
		}
	}
	return wrong
}

// makespans gives the rows of each table of that section, by the way of enforcing limits and the contestant.
func makespans(text string) map[string]map[string]string {
	caption := regexp.MustCompile(`^\*\*Makespan of [^,]*,[^:]* per [\d.]+s, ([^:]+):`)
	tables := make(map[string]map[string]string)
	var current map[string]string
	for line := range strings.Lines(text) {
		switch m := caption.FindStringSubmatch(line); {
		case m != nil:
			current = make(map[string]string)
			tables[m[1]] = current
		case strings.HasPrefix(line, "#"):
			current = nil
		case current != nil && strings.HasPrefix(line, "| "):
			name, row, _ := strings.Cut(strings.Trim(strings.TrimSpace(line), "| "), " | ")
			// Its columns are time, × minimum, × that of a sliding window, refused, failed, wasted.
			if cells := strings.Split(row, " | "); len(cells) == 6 {
				current[name] = cells[1] + ", " + cells[3] + " refused, " + cells[4] + " failed"
			}
		}
	}
	return tables
}

// retold says where a document differs from the tables of the makespan.
func retold(path, text string, tables map[string]map[string]string) []string {
	var wrong []string
	var header []string
	n := 0
	for line := range strings.Lines(text) {
		n++
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), " | ")
		for i := range cells {
			cells[i] = strings.TrimSpace(cells[i])
		}
		table := enforcement(tables, cells[0])
		switch {
		case !strings.HasPrefix(line, "|"):
			header = nil
			continue
		case header == nil:
			header = cells
			continue
		case table == nil:
			continue
		}
		for i := 1; i < min(len(cells), len(header)); i++ {
			row, known := table[header[i]]
			if !known {
				continue
			}
			said := figures("", row+" ")
			for _, f := range figures(path, cells[i]) {
				if len(unmeasured([]figure{f}, said)) > 0 {
					wrong = append(wrong, fmt.Sprintf("%s:%d: %s of %s under %q: %s has %s", path, n, f.text, header[i], cells[0], measurements, row))
				}
			}
		}
	}
	if strings.Contains(text, "images/makespan.svg") {
		for how, table := range tables {
			if f := figures("", table["llmqueue"]); len(f) > 1 && f[1].value > 0 && !strings.Contains(text, f[1].text) {
				wrong = append(wrong, fmt.Sprintf("%s shows the chart of makespans, in which llmqueue has %s under %q, and does not say so", path, f[1].text, how))
			}
		}
	}
	return wrong
}

// enforcement finds a table by the beginning of its name, nil if there is none.
func enforcement(tables map[string]map[string]string, name string) map[string]string {
	for how, table := range tables {
		if name != "" && strings.HasPrefix(how, name) {
			return table
		}
	}
	return nil
}

// TestFiguresFinds makes sure that a wrong figure is seen, at its line.
func TestFiguresFinds(t *testing.T) {
	measured := figures(measurements, "| trip | ≤ 9.9× | 3.4× (3.3–3.5), 1,670 ns |\n99.97% of the quota, 0 refused of 2,929; 176 B\n")
	for text, want := range map[string]string{
		"about 3.4×":                "",
		"about 3.6×":                "a.md:1: 3.6× is not in docs/performance.md",
		"wanted ≤ 9.9×":             "", // a target is no claim
		"took 1.7 µs":               "",
		"[Go](go-1.25%2B), 9 B":     "a.md:1: 9 B is not in",
		"\n\ntook 1.8 µs":           "a.md:3: 1.8 µs is not in",
		"5 refused":                 "a.md:1: 5 refused is not in",
		"0 refused":                 "",
		"uses 100% of the quota":    "",
		"uses 99% of the quota":     "a.md:1: 99% of the quota is not in",
		"168 B each":                "a.md:1: 168 B is not in",
		"1.00–3.4×":                 "a.md:1: 1.00× is not in",
		"`9×` and\n```\n8×\n```\n.": "",
	} {
		wrong := unmeasured(figures("a.md", text), measured)
		require.Equal(t, want == "", len(wrong) == 0, "%q: %v", text, wrong)
		require.Contains(t, strings.Join(wrong, "\n"), want)
	}

	tables := makespans("**Makespan of 9 questions, 2 requests and 4 tokens per 6s, slices of a sixth of the period: at least 1s**\n\n" +
		"|  | Time | × minimum | × that | Refused | Failed | Wasted |\n|---|---|---|---|---|---|---|\n| llmqueue | 34s | 1.136× | 1.4× | 68 | 0 | 0 |\n")
	for text, want := range map[string]string{
		"| How | llmqueue |\n|---|---|\n| slices of a sixth | 1.136×, 68 refused |\n":          "",
		"| How | llmqueue |\n|---|---|\n| slices of a sixth | 1.14×, 0 refused |\n":            `a.md:3: 0 refused of llmqueue under "slices of a sixth"`,
		"never, 0 refused: ![chart](docs/images/makespan.svg)":                                 "a.md shows the chart of makespans, in which llmqueue has 68 refused",
		"0 refused under windows, 68 refused under slices: ![chart](docs/images/makespan.svg)": "",
	} {
		wrong := retold("a.md", text, tables)
		require.Equal(t, want == "", len(wrong) == 0, "%q: %v", text, wrong)
		require.Contains(t, strings.Join(wrong, "\n"), want)
	}
}
