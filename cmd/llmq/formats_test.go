package main

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
)

// prompts are the contents of the first messages that a recorder got, sorted.
func prompts(t *testing.T, srv *recorder) (list []string) {
	t.Helper()
	for _, b := range srv.bodies {
		messages, _ := b["messages"].([]any)
		if len(messages) == 0 {
			t.Fatalf("no chat was sent: %v", b)
		}
		list = append(list, messages[0].(map[string]any)["content"].(string))
	}
	slices.Sort(list)
	return list
}

// raw writes a file as it is.
func raw(t *testing.T, dir, name, content string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

// packed is a text by zstd.
func packed(t *testing.T, text string) string {
	t.Helper()
	var b bytes.Buffer
	z, err := zstd.NewWriter(&b)
	if err != nil {
		t.Fatal(err)
	}
	_, _ = z.Write([]byte(text))
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// TestArraysAndTables run as lines do, and have nothing left to do the second time.
func TestArraysAndTables(t *testing.T) {
	t.Parallel()
	filled := []string{"--template", "{{.q}}|{{.a}}", "--model", "m", "--id-field", "id"}
	table := "\xef\xbb\xbfid,q,a\r\nr0,\"one, \"\"two\"\"\nthree\",\r\n\r\nr1,é,<b>\r\n"
	fromTable := []string{"one, \"two\"\nthree|", "é|<b>"}
	chat := "[" + strings.Join(chats(2, 5), "\n,") + "]"
	fromChats := []string{"Question 0: what is 0 times 1?", "Question 1: what is 1 times 2?"}
	for name, c := range map[string]struct {
		file, content string
		flags         []string
		want          []string
	}{
		"an array":             {"in.json", " \n" + chat, nil, fromChats},
		"by zstd":              {"in.bin", packed(t, chat), nil, fromChats},
		"lines by zstd":        {"in.zst", packed(t, strings.Join(chats(2, 5), "\n")), nil, fromChats},
		"an array, template":   {"in.json", "[\n  {\"id\": \"r0\",\n  \"q\": 1, \"a\": 2.50}, {\"id\":\"r1\",\"q\":\"x\",\"a\":\"\"}\n]\n", filled, []string{"1|2.50", "x|"}},
		"CSV":                  {"in.csv", table, filled, fromTable},
		"CSV by zstd":          {"IN.CSV.ZST", packed(t, table), filled, fromTable},
		"CSV by the flag":      {"-", table, append([]string{"--input-format", "csv"}, filled...), fromTable},
		"CSV as [":             {"in.csv", "[x],q,a,id\n,b,c,r0\n,d,e,r1\n", filled, []string{"b|c", "d|e"}},
		"TSV":                  {"in.tsv", "q\tid\ta\nx, y\tr0\t1\nz\tr1\t\n", filled, []string{"x, y|1", "z|"}},
		"lines that hold a [":  {"in.jsonl", strings.Join(chats(2, 5), "\n"), []string{"--input-format", "jsonl"}, fromChats},
		"PAR1 names a column":  {"in.csv", "PAR1,q,a,id\n,b,c,r0\n,d,e,r1\n", filled, []string{"b|c", "d|e"}},
		"a table with one row": {"in.csv", "id,q,a\nr0,b,c", filled, []string{"b|c"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			srv, dir := record(t), t.TempDir()
			if c.file != "-" {
				raw(t, dir, c.file, c.content)
			}
			for range 2 {
				p := command(t, dir, nil, append([]string{"run", c.file, "-o", "out.jsonl", "--base-url", srv.URL, "-q"}, c.flags...)...)
				p.Stdin = strings.NewReader(c.content)
				if err := p.Start(); err != nil {
					t.Fatal(err)
				}
				if code := p.code(); code != 0 {
					t.Fatalf("exit code %d: %s", code, p.stderr.String())
				}
				eachOnce(t, readResults(t, dir, "out.jsonl"), len(c.want))
				if got := prompts(t, srv); !slices.Equal(got, c.want) {
					t.Errorf("sent %q, want %q", got, c.want)
				}
			}
		})
	}
}

// TestTheNumberOfARowIsItsLine, as editors count.
func TestTheNumberOfARowIsItsLine(t *testing.T) {
	t.Parallel()
	srv, dir := record(t), t.TempDir()
	write(t, dir, "in.csv", "q", "\"two", "lines\"", "", "x")
	if code, _, stderr := llmq(t, dir, "run", "in.csv", "-o", "out.jsonl", "--base-url", srv.URL, "--template", "{{.q}}", "--model", "m", "--ordered"); code != 0 {
		t.Fatalf("exit code %d: %s", code, stderr)
	}
	if list := readResults(t, dir, "out.jsonl"); len(list) != 2 || list[0].ID != "line-2" || list[1].ID != "line-5" {
		t.Errorf("the ids are of other lines: %+v", list)
	}
}

func TestWhatCannotBeReadIsSaidAndSendsNothing(t *testing.T) {
	t.Parallel()
	srv := record(t)
	good := chats(1, 5)[0]
	filled := []string{"--template", "{{.q}}", "--model", "m"}
	for name, c := range map[string]struct {
		file, content string
		flags         []string
		want          string
	}{
		"Parquet":                             {"in.parquet", "PAR1\x15\x04\x15\x00", nil, `in.parquet:1: Parquet is not read: convert it, as by duckdb -c "COPY`},
		"Parquet, packed":                     {"in", packed(t, "PAR1\x15\x04\x15\x00"), nil, `in:1: Parquet is not read`},
		"Excel":                               {"in.xlsx", "PK\x03\x04\x14\x00", nil, `or an Excel sheet is not read: unpack it, or save the sheet as CSV`},
		"UTF-16":                              {"in.csv", "\xff\xfeq\x00\n\x00", filled, "UTF-16 is not read: convert it, as by iconv"},
		"zstd, broken":                        {"in.zst", "\x28\xb5\x2f\xfdrubbish", nil, "in.zst:1: cannot be read"},
		"an array cut off":                    {"in.json", "[" + good, nil, "in.json:2: the JSON array does not end"},
		"an element cut off":                  {"in.json", "[" + good + `,{"custom_id":"x"`, nil, "in.json:2: the JSON array does not end"},
		"no comma":                            {"in.json", "[" + good + good + "]", nil, "in.json:2: this element of the JSON array is not valid, at byte"},
		"more than an array":                  {"in.json", "[" + good + "]" + good, nil, "something stands behind the JSON array"},
		"an array, then zstd that is cut off": {"in.zst", packed(t, "["+good+"]") + "\n", nil, "cannot be read: unexpected EOF"},
		"an array of texts":                   {"in.json", `["a"]`, nil, "in.json:1: not a JSON object"},
		"no array":                            {"in.json", good, []string{"--input-format", "json"}, "no JSON array"},
		"an id twice":                         {"in.json", "[" + good + "," + good + "]", nil, `in.json:2: the id "r0" stands`},
		"a table, no template":                {"in.csv", "q\nx", nil, "in.csv:1: a table has no requests: give a --template over its columns"},
		"a column too many":                   {"in.csv", "q,a\n1,2\n1,2,3\n", filled, "in.csv:3: the first line names 2 columns, this one has more or fewer"},
		"a quote within":                      {"in.csv", "q,a\n1,say \"x\"\n", filled, "in.csv:2: a quote stands where none may"},
		"a quote that is open":                {"in.csv", "q,a\n1,\"x\n3,4\n", filled, "in.csv:2: a quote stands"},
		"no such column":                      {"in.csv", "question,a\n1,2\n", filled, `in.csv:2: the template wants a field "q", there are a, question`},
		"a column without name":               {"in.csv", "q,,a\n1,2,3\n", filled, "in.csv:1: column 2 has no name"},
		"two of one name":                     {"in.csv", "q,q\n1,2\n", filled, `in.csv:1: two columns are named "q"`},
		"Latin-1":                             {"in.csv", "q\nx\n\xe9t\xe9\n", filled, "in.csv:3: the table is not in UTF-8"},
		"unknown format":                      {"in.csv", "q\nx\n", []string{"--input-format", "xml"}, `--input-format "xml": want jsonl, json, csv, tsv`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			raw(t, dir, c.file, c.content)
			code, _, stderr := llmq(t, dir, append([]string{"run", c.file, "-o", "out.jsonl", "--base-url", srv.URL}, c.flags...)...)
			oneLine(t, code, 2, stderr, c.want)
		})
	}
	t.Cleanup(func() {
		if len(srv.bodies) > 0 {
			t.Errorf("%d requests were sent", len(srv.bodies))
		}
	})
}
