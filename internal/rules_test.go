// Package internal holds nothing but the test of the rules that everything below it, and
// the root, keep.
package internal

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const module = "github.com/llmqueue/llmqueue"

// pure are the packages that decide, with what each may know of this module. They are pure:
// time and seeds come in, and what they decide comes back as values.
var pure = map[string][]string{
	"internal/timeline": nil,
	"internal/line":     nil,
	"internal/window":   nil,
	"internal/endpoint": {"internal/window"},
	"internal/engine":   {"internal/endpoint", "internal/line", "internal/timeline"},
	"internal/model":    {"internal/endpoint"}, // only tests know it
}

// serving are the other packages under internal: each does one thing that needs no word of the
// root, with what each may know of this module.
var serving = map[string][]string{
	"internal/bridge":     {"internal/endpoint", "internal/engine"},
	"internal/charging":   {"accounting", "internal/endpoint"},
	"internal/clock":      nil,
	"internal/cycle":      nil,
	"internal/fanout":     nil,
	"internal/history":    {"internal/endpoint"},
	"internal/ids":        nil,
	"internal/lazyctx":    nil,
	"internal/paged":      {"internal/engine"},
	"internal/strictjson": nil,
	"internal/validation": nil,
	"internal/wirerror":   nil,
}

// crossing are the folders of the root's module outside internal that may know internal packages.
var crossing = map[string]bool{".": true, "plan": true}

// impure are packages with which a pure one would wait, lock or run what a user wrote.
var impure = map[string]string{
	"context":     "it would run what a user wrote",
	"sync":        "the owner's lock guards it",
	"sync/atomic": "the owner's lock guards it",
	"fmt":         "words are the root's",
	"log":         "words are the root's",
	"log/slog":    "words are the root's",
	"os":          "it has no surroundings",
	"net/http":    "it has no surroundings",
	"runtime":     "it has no surroundings",
}

// clocks are what package time has that reads a clock, arms a timer or waits.
var clocks = []string{"Now", "Since", "Until", "After", "AfterFunc", "NewTimer", "NewTicker", "Tick", "Sleep"}

// seeded is what math/rand and math/rand/v2 have that draws on nothing but a seed.
var seeded = []string{"New", "NewPCG", "NewChaCha8", "NewZipf", "NewSource", "Rand", "Source", "PCG", "ChaCha8", "Zipf"}

// violation is a rule that a file breaks.
type violation struct {
	at   string // file and line
	rule string
}

func (v violation) String() string { return v.at + ": " + v.rule }

// TestPackagesKeepTheRules reads what the packages under internal import and call.
func TestPackagesKeepTheRules(t *testing.T) {
	seen := map[string]bool{}
	for _, f := range sources(t) {
		dir := path.Dir(f.name)
		seen[dir] = true
		for _, v := range f.check(dir) {
			t.Error(v)
		}
	}
	for dir := range pure {
		assert.True(t, seen[dir], "%s is listed as pure, but there is no such package", dir)
	}
	for dir := range serving {
		assert.True(t, seen[dir], "%s is listed, but there is no such package", dir)
	}
}

// The rules notice what they are for.
func TestRulesNoticeWhatBreaksThem(t *testing.T) {
	for _, c := range []struct{ dir, source, want string }{
		{"internal/line", `import "context"; var _ context.Context`, `imports "context"`},
		{"internal/line", `import "sync"; var _ sync.Mutex`, `imports "sync"`},
		{"internal/line", `import "sync/atomic"; var _ atomic.Int64`, `imports "sync/atomic"`},
		{"internal/window", `import f "fmt"; var _ = f.Sprint`, `imports "fmt"`},
		{"internal/window", `import . "math"; var _ = Pi`, `a dot import`},
		{"internal/window", `import "github.com/llmqueue/llmqueue"; var _ llmqueue.Usage`, `knows the root`},
		{"internal/window", `import "github.com/llmqueue/llmqueue/plan"; var _ plan.Request`, `knows "plan"`},
		{"internal/window", `import "github.com/stretchr/testify/assert"; var _ = assert.True`, `knows nothing but the standard library`},
		{"internal/endpoint", `import "github.com/llmqueue/llmqueue/internal/line"; var _ line.Line`, `knows "internal/line"`},
		{"internal/engine", `import "github.com/llmqueue/llmqueue/internal/window"; var _ window.Set`, `knows "internal/window"`},
		{"internal/timeline", `import "time"; var _ = time.Now()`, `time.Now`},
		{"internal/timeline", `import clock "time"; func f() { clock.Sleep(1) }`, `time.Sleep`},
		{"internal/timeline", `import "time"; var f = time.AfterFunc`, `time.AfterFunc`},
		{"internal/engine", `import "math/rand/v2"; func f() int { return rand.IntN(3) }`, `rand.IntN`},
		{"internal/engine", `func f() { go f() }`, `starts a goroutine`},
		{"llmhttp", `import "github.com/llmqueue/llmqueue/internal/engine"; var _ engine.Engine`, `knows "internal/engine"`},
		{"internal/clock", `import "github.com/llmqueue/llmqueue"; var _ llmqueue.Usage`, `knows "github.com/llmqueue/llmqueue"`},
		{"internal/clock", `import "github.com/llmqueue/llmqueue/internal/engine"; var _ engine.Engine`, `may know nothing of this module`},
		{"internal/novel", `var x int`, `is not in the table of packages`},
		{"internal/engine", `import ("time"; "math/rand/v2"); var _ = rand.New(rand.NewPCG(1, 2)); var _ time.Duration`, ""},
		{"internal/engine", `import "github.com/llmqueue/llmqueue/internal/line"; var _ line.Line`, ""},
		{"plan", `import ("github.com/llmqueue/llmqueue"; "github.com/llmqueue/llmqueue/internal/engine"); var _ llmqueue.Usage; var _ engine.Engine`, ""},
		{"llmhttp", `import "time"; var _ = time.Now()`, ""},
	} {
		set := token.NewFileSet()
		tree, err := parser.ParseFile(set, c.dir+"/x.go", "package x; "+c.source, parser.SkipObjectResolution)
		require.NoError(t, err, c.source)
		found := file{name: c.dir + "/x.go", set: set, tree: tree}.check(c.dir)
		switch {
		case c.want == "":
			assert.Empty(t, found, c.source)
		case assert.Len(t, found, 1, c.source):
			assert.Contains(t, found[0].String(), c.want)
			assert.Contains(t, found[0].String(), c.dir+"/x.go:1")
		}
	}
}

// file is a Go file of the root's module.
type file struct {
	name  string // from the root, with slashes
	lines int
	set   *token.FileSet
	tree  *ast.File
}

// sources are the Go files of the root's module, tests excepted.
func sources(t *testing.T) (all []file) {
	const root = ".."
	require.NoError(t, filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			_, err := os.Stat(filepath.Join(name, "go.mod"))
			switch base := d.Name(); {
			case name == root:
			case err == nil, base == "testdata", strings.HasPrefix(base, "."), strings.HasPrefix(base, "_"):
				return fs.SkipDir
			case !errors.Is(err, fs.ErrNotExist):
				return err
			}
			return nil
		}
		if !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go") {
			return nil
		}
		text, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		short, err := filepath.Rel(root, name)
		if err != nil {
			return err
		}
		f := file{name: filepath.ToSlash(short), lines: bytes.Count(text, []byte("\n")), set: token.NewFileSet()}
		if f.tree, err = parser.ParseFile(f.set, f.name, text, parser.SkipObjectResolution); err == nil {
			all = append(all, f)
		}
		return err
	}))
	return all
}

// check gives the rules that f, which is in dir, breaks.
func (f file) check(dir string) (broken []violation) {
	say := func(n ast.Node, format string, args ...any) {
		at := f.set.Position(n.Pos())
		broken = append(broken, violation{fmt.Sprintf("%s:%d", at.Filename, at.Line), fmt.Sprintf(format, args...)})
	}
	knows, isPure := pure[dir]
	mayUse, serves := serving[dir]
	program := f.tree.Name.Name == "main" // for who works here: it decides nothing
	names := map[string]string{}          // what an imported package is called here
	for _, spec := range f.tree.Imports {
		p, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			say(spec, "cannot read the import %s", spec.Path.Value)
			continue
		}
		name := strings.TrimSuffix(p, "/v2")
		name = name[strings.LastIndex(name, "/")+1:]
		if spec.Name != nil {
			name = spec.Name.Name
		}
		names[name] = p
		inside, ours := strings.CutPrefix(p, module+"/")
		switch {
		case serves && (p == module || ours && !slices.Contains(mayUse, inside)):
			say(spec, "%s knows %q: it may know %s", dir, p, cmp.Or(strings.Join(mayUse, ", "), "nothing of this module"))
		case !isPure:
			if ours && strings.HasPrefix(inside, "internal/") && !crossing[dir] && !strings.HasPrefix(dir, "internal/") {
				say(spec, "%s knows %q: only the root and plan know what is internal", dir, inside)
			}
		case name == ".":
			say(spec, "%s has a dot import: name the package that a name comes from", dir)
		case p == module:
			say(spec, "%s knows the root: what is internal knows nothing upward", dir)
		case ours && !slices.Contains(knows, inside):
			say(spec, "%s knows %q: it may know %s", dir, inside, cmp.Or(strings.Join(knows, ", "), "nothing of this module"))
		case !ours && strings.Contains(strings.Split(p, "/")[0], "."):
			say(spec, "%s imports %q: it knows nothing but the standard library", dir, p)
		case impure[p] != "":
			say(spec, "%s imports %q: it is pure, %s", dir, p, impure[p])
		}
	}
	if strings.HasPrefix(dir, "internal/") && !isPure && !serves && !program {
		say(f.tree.Name, "%s is not in the table of packages: say there what it may know", dir)
	}
	if !isPure {
		return broken
	}
	ast.Inspect(f.tree, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.GoStmt:
			say(n, "%s starts a goroutine: it is pure", dir)
		case *ast.SelectorExpr:
			of, ok := n.X.(*ast.Ident)
			if !ok {
				break
			}
			switch p, name := names[of.Name], n.Sel.Name; {
			case p == "time" && slices.Contains(clocks, name):
				say(n, "%s uses time.%s: it is pure, time comes in as an argument", dir, name)
			case (p == "math/rand" || p == "math/rand/v2") && !slices.Contains(seeded, name):
				say(n, "%s uses rand.%s: it is pure, a seed comes in", dir, name)
			}
		}
		return true
	})
	return broken
}

// TestRootStaysSmall: who opens the root sees what a caller sees, in files that are rooms.
func TestRootStaysSmall(t *testing.T) {
	const files, longest = 25, 400
	const lines = 7309 // 5,000 is the goal
	count, sum := 0, 0
	for _, f := range sources(t) {
		if path.Dir(f.name) != "." {
			continue
		}
		count++
		sum += f.lines
		assert.LessOrEqual(t, f.lines, longest, "%s is longer than a room of the root may be: move what is not its subject", f.name)
	}
	assert.LessOrEqual(t, count, files, "the root has too many files: what decides belongs under internal")
	assert.LessOrEqual(t, sum, lines, "the root has too many lines: what decides belongs under internal")
}
