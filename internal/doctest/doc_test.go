// Package doctest compiles the Go that the documents show.
//
// Every fenced block marked go in every Markdown file of the repository is type-checked
// against the library as it is. A block that begins with a package clause has to be a
// complete file. Any other block is a fragment: declarations stand at the top level,
// statements go into a function, and what it uses without saying (a context, a queue,
// the types of an example) comes from prelude.
package doctest

import (
	"bufio"
	"fmt"
	"go/format"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const root = "../.."

// snippet is one fenced block.
type snippet struct {
	path string // of its document, from the root
	line int    // of its first line of code
	code string
}

func (s snippet) String() string { return s.path + ":" + strconv.Itoa(s.line) }

func TestSnippetsCompile(t *testing.T) {
	docs := documents(t)
	var all []snippet
	for _, path := range docs {
		found, err := snippets(path, read(t, path))
		require.NoError(t, err)
		all = append(all, found...)
	}
	require.NotEmpty(t, all, "no document shows any Go")

	lib := load(t, all)
	for _, s := range all {
		t.Run(s.String(), func(t *testing.T) {
			require.NoError(t, check(lib, s), "this block does not compile")
			formatted, err := format.Source([]byte(s.code))
			require.NoError(t, err)
			require.Equal(t, string(formatted), s.code, "%v: this block is not as gofmt has it", s)
		})
	}
}

// TestCheckFinds makes sure that a wrong block is seen, at its own line.
func TestCheckFinds(t *testing.T) {
	blocks := map[string]string{
		"undefined: llmqueue.RPX": "```go\n\nllmqueue.RPX(3)\n```\n",
		"declared and not used":   "```go\npackage p\nfunc f() { x := 1 }\n```\n",
		"not used\n":              "```go\npackage p\nimport \"fmt\"\n```\n",
		"undefined: nothing":      "```go\ntype T struct {\n\ta nothing }\n```\n",
		"not enough arguments":    "```go\nfunc f() {\n\tqueue.Len(queue.Do()) }\n```\n",
		"expected":                "```go\nx :=\n for\n```\n",
	}
	lib := load(t, nil)
	for want, text := range blocks {
		t.Run(strings.TrimSpace(want), func(t *testing.T) {
			found, err := snippets("a.md", "Title\n\n"+text)
			require.NoError(t, err)
			require.Len(t, found, 1)
			err = check(lib, found[0])
			require.ErrorContains(t, err, strings.TrimSpace(want))
			require.ErrorContains(t, err, "a.md:5:")
		})
	}
	_, err := snippets("a.md", "\n```go\nx := 1\n")
	require.EqualError(t, err, "a.md:2: this block has no end")
}

// TestQuickStartIsQuick holds the README to its promise of a short start.
func TestQuickStartIsQuick(t *testing.T) {
	found, err := snippets("README.md", read(t, "README.md"))
	require.NoError(t, err)
	require.NotEmpty(t, found)
	lines := 0
	for line := range strings.Lines(found[0].code) {
		if strings.TrimSpace(line) != "" {
			lines++
		}
	}
	require.LessOrEqual(t, lines, 25, "%v: lines of code in the quick start", found[0])
}

// TestLinksLead checks that every link inside the repository leads to a file.
func TestLinksLead(t *testing.T) {
	for _, path := range documents(t) {
		line, inBlock := 0, false
		for text := range strings.Lines(read(t, path)) {
			line++
			if strings.HasPrefix(strings.TrimSpace(text), "```") {
				inBlock = !inBlock
			}
			for _, target := range targets(text) {
				if inBlock || target == "" || strings.Contains(target, "://") {
					continue
				}
				_, err := os.Stat(filepath.Join(root, filepath.Dir(path), target))
				require.NoError(t, err, "%s:%d: a link leads nowhere", path, line)
			}
		}
	}
}

// inlineCode is code within a line; a Go call may look like a link.
var inlineCode = regexp.MustCompile("`[^`]*`")

// targets gives where the links of a line lead, without their fragments.
func targets(line string) []string {
	var found []string
	line = inlineCode.ReplaceAllString(line, "")
	for {
		_, after, ok := strings.Cut(line, "](")
		if !ok {
			return found
		}
		target, rest, _ := strings.Cut(after, ")")
		target, _, _ = strings.Cut(target, "#")
		found, line = append(found, target), rest
	}
}

// documents lists the Markdown files, as paths from the root.
func documents(t *testing.T) []string {
	t.Helper()
	var docs []string
	require.NoError(t, filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && path != root && (strings.HasPrefix(d.Name(), ".") || d.Name() == "testdata"):
			return filepath.SkipDir
		case !d.IsDir() && filepath.Ext(path) == ".md":
			rel, err := filepath.Rel(root, path)
			docs = append(docs, filepath.ToSlash(rel))
			return err
		}
		return nil
	}))
	return docs
}

func read(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(root, path))
	require.NoError(t, err)
	return string(data)
}

// snippets gives the blocks of a document that are marked go.
func snippets(path, text string) ([]snippet, error) {
	var (
		found []snippet
		code  strings.Builder
		start int  // line of the fence that is open, 0 when none is
		isGo  bool // that block is Go
		line  int
	)
	for scan := bufio.NewScanner(strings.NewReader(text)); scan.Scan(); {
		line++
		fence, mark := strings.CutPrefix(strings.TrimSpace(scan.Text()), "```")
		switch {
		case mark && start == 0:
			start, isGo = line, fence == "go"
			code.Reset()
		case mark:
			if isGo {
				found = append(found, snippet{path, start + 1, code.String()})
			}
			start = 0
		case start > 0:
			code.WriteString(scan.Text() + "\n")
		}
	}
	if start > 0 {
		return nil, fmt.Errorf("%s:%d: this block has no end", path, start)
	}
	return found, nil
}
