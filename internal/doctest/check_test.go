package doctest

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"go/ast"
	"go/importer"
	"go/parser"
	"go/scanner"
	"go/token"
	"go/types"
	"io"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	// The library is read through its export data. Importing it makes go test run
	// these tests again when it changes, instead of reporting a cached result.
	_ "github.com/llmqueue/llmqueue"
	_ "github.com/llmqueue/llmqueue/accounting"
	_ "github.com/llmqueue/llmqueue/dashboard"
	_ "github.com/llmqueue/llmqueue/llmtest"
	_ "github.com/llmqueue/llmqueue/plan"
)

// prelude is what a fragment may use without declaring it. A fragment that declares
// one of these names itself hides it here.
const prelude = `
type Chat struct{ Prompt string }
type Answer struct {
	Text  string
	Usage llmqueue.Usage
}

var (
	ctx     context.Context
	t       *testing.T
	err     error
	queue   *llmqueue.Queue[Chat, Answer]
	manager *llmqueue.Manager[Chat, Answer]
	request llmqueue.Request[Chat]
	ask     llmqueue.Processor[Chat, Answer]
	jobs    *llmriver.Jobs[Chat, Answer]
)
`

// known gives the import path of each package that a fragment may name.
var known = map[string]string{
	"context": "context", "errors": "errors", "expvar": "expvar", "fmt": "fmt", "http": "net/http", "iter": "iter", "json": "encoding/json", "net": "net",
	"log": "log", "os": "os", "signal": "os/signal", "slices": "slices", "slog": "log/slog", "strings": "strings",
	"synctest": "testing/synctest", "testing": "testing", "time": "time",
	"validator": "github.com/go-playground/validator/v10",
	"llmqueue":  "github.com/llmqueue/llmqueue", "llmtest": "github.com/llmqueue/llmqueue/llmtest",
	"accounting": "github.com/llmqueue/llmqueue/accounting", "llmhttp": "github.com/llmqueue/llmqueue/llmhttp", "dashboard": "github.com/llmqueue/llmqueue/dashboard",
	"llmprom": "github.com/llmqueue/llmqueue/llmprom", "prometheus": "github.com/prometheus/client_golang/prometheus",
	"llmriver": "github.com/llmqueue/llmqueue/llmriver",
	"llmredis": "github.com/llmqueue/llmqueue/llmredis", "redis": "github.com/redis/go-redis/v9",
	"llmotel": "github.com/llmqueue/llmqueue/llmotel",
	"plan":    "github.com/llmqueue/llmqueue/plan",
}

// library finds the export data of compiled packages, by import path.
type library map[string]string

// load compiles what fragments may import and what complete files do import.
func load(t *testing.T, all []snippet) library {
	t.Helper()
	paths := slices.Collect(maps.Values(known))
	for _, s := range all {
		if f, err := parser.ParseFile(token.NewFileSet(), "", s.code, parser.ImportsOnly); err == nil {
			paths = append(paths, imports(f)...)
		}
	}
	slices.Sort(paths)
	cmd := exec.CommandContext(t.Context(), "go", append([]string{"list", "-export", "-deps", "-f", "{{.ImportPath}} {{.Export}}"}, slices.Compact(paths)...)...)
	cmd.Dir = root
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	require.NoError(t, err, "the packages that the documents import do not compile:\n%s", stderr.String())
	lib := library{}
	for scan := bufio.NewScanner(bytes.NewReader(out)); scan.Scan(); {
		if path, file, ok := strings.Cut(scan.Text(), " "); ok {
			lib[path] = file
		}
	}
	return lib
}

func (l library) open(path string) (io.ReadCloser, error) {
	if l[path] == "" {
		return nil, fmt.Errorf("package %s is not known", path)
	}
	return os.Open(l[path])
}

// check type-checks one block. Its errors name the lines of the document.
func check(lib library, s snippet) error {
	fset := token.NewFileSet()
	files, complete, err := parse(fset, s)
	if err != nil {
		return err
	}
	var found []error
	conf := types.Config{
		GoVersion: "go1.25",
		Importer:  importer.ForCompiler(fset, "gc", lib.open),
		Error: func(err error) {
			// A fragment need not use what it declares.
			if soft := new(types.Error); complete || !errors.As(err, soft) || !soft.Soft {
				found = append(found, err)
			}
		},
	}
	_, _ = conf.Check("snippet", fset, files, nil) // its error is the first of found
	return errors.Join(found...)
}

// parse makes a block a package. complete tells that the block is one as it stands.
func parse(fset *token.FileSet, s snippet) (files []*ast.File, complete bool, err error) {
	at := fmt.Sprintf("//line %s:%d\n", s.path, s.line)
	if f, err := parser.ParseFile(token.NewFileSet(), "", s.code, parser.PackageClauseOnly); err == nil && f.Name != nil {
		f, err := parser.ParseFile(fset, "", at+s.code, parser.SkipObjectResolution)
		return []*ast.File{f}, true, err
	}

	before, after := "package p\n", ""
	f, asDecls := parser.ParseFile(token.NewFileSet(), "", before+at+s.code, parser.SkipObjectResolution)
	if asDecls != nil {
		var asStmts error
		before, after = "package p\nfunc _() error {\n", "\nreturn nil }\n"
		if f, asStmts = parser.ParseFile(token.NewFileSet(), "", before+at+s.code+after, parser.SkipObjectResolution); asStmts != nil {
			return nil, false, later(asDecls, asStmts)
		}
	}
	add := importClauses(f)
	src := strings.Replace(before, "package p", "package p; "+add, 1) + at + s.code + after
	if f, err = parser.ParseFile(fset, "", src, parser.SkipObjectResolution); err != nil {
		return nil, false, err
	}

	pre, err := parser.ParseFile(fset, "prelude", `package p; import ("context"; "testing"; "github.com/llmqueue/llmqueue"; "github.com/llmqueue/llmqueue/llmriver")`+prelude, parser.SkipObjectResolution)
	if err != nil {
		return nil, false, err
	}
	hide(pre, declared(f))
	return []*ast.File{f, pre}, false, nil
}

// later picks the error of the attempt that came further.
func later(a, b error) error {
	line := func(err error) int {
		if list := (scanner.ErrorList)(nil); errors.As(err, &list) && len(list) > 0 {
			return list[0].Pos.Line
		}
		return 0
	}
	if line(a) > line(b) {
		return a
	}
	return b
}

// importClauses imports the known packages that f names and does not import itself.
func importClauses(f *ast.File) string {
	own := imports(f)
	used := map[string]bool{}
	for n := range ast.Preorder(f) {
		if sel, ok := n.(*ast.SelectorExpr); ok {
			if x, ok := sel.X.(*ast.Ident); ok && known[x.Name] != "" && !slices.Contains(own, known[x.Name]) {
				used[known[x.Name]] = true
			}
		}
	}
	var clauses strings.Builder
	for _, path := range slices.Sorted(maps.Keys(used)) {
		fmt.Fprintf(&clauses, "import %q; ", path)
	}
	return clauses.String()
}

func imports(f *ast.File) []string {
	var paths []string
	for _, spec := range f.Imports {
		if path, err := strconv.Unquote(spec.Path.Value); err == nil {
			paths = append(paths, path)
		}
	}
	return paths
}

// declared gives the names that f declares at its top level.
func declared(f *ast.File) map[string]bool {
	names := map[string]bool{}
	for _, d := range f.Decls {
		switch d := d.(type) {
		case *ast.FuncDecl:
			if d.Recv == nil {
				names[d.Name.Name] = true
			}
		case *ast.GenDecl:
			for _, spec := range d.Specs {
				for _, name := range specNames(spec) {
					names[name] = true
				}
			}
		}
	}
	return names
}

func specNames(spec ast.Spec) []string {
	switch spec := spec.(type) {
	case *ast.TypeSpec:
		return []string{spec.Name.Name}
	case *ast.ValueSpec:
		var names []string
		for _, n := range spec.Names {
			names = append(names, n.Name)
		}
		return names
	}
	return nil
}

// hide takes names out of the prelude, whose declarations have one name each.
func hide(pre *ast.File, names map[string]bool) {
	for _, d := range pre.Decls {
		if d, ok := d.(*ast.GenDecl); ok {
			d.Specs = slices.DeleteFunc(d.Specs, func(spec ast.Spec) bool {
				return slices.ContainsFunc(specNames(spec), func(n string) bool { return names[n] })
			})
		}
	}
}
