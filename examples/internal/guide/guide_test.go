// Package guide builds the program that docs/guides/getting_started.md makes its reader type,
// and runs it against a simulator.
package guide

import (
	"bytes"
	"context"
	"go/ast"
	"go/format"
	"go/parser"
	"go/printer"
	"go/token"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/llmqueue/llmqueue/llmtest"
)

const document = "../../../docs/guides/getting_started.md"

// block is a step of the program. Blocks marked go are fragments of their own.
var block = regexp.MustCompile("(?ms)^```golang\n(.*?)^```$")

func blocks(t *testing.T) []string {
	text, err := os.ReadFile(document)
	if err != nil {
		t.Fatal(err)
	}
	var code []string
	for _, m := range block.FindAllStringSubmatch(string(text), -1) {
		formatted, err := format.Source([]byte(m[1]))
		if err != nil {
			t.Fatalf("%v in:\n%s", err, m[1])
		}
		if string(formatted) != m[1] {
			t.Errorf("not as gofmt has it:\n%s", m[1])
		}
		code = append(code, m[1])
	}
	if len(code) < 2 {
		t.Fatalf("%s has %d steps", document, len(code))
	}
	return code
}

// The program builds after every step, and its end prints what the guide says.
func TestTypedInOrder(t *testing.T) {
	server, err := llmtest.Start(llmtest.OpenAI(llmtest.RPM(500), llmtest.TPM(200_000)))
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	steps := blocks(t)
	dir := t.TempDir()
	for n := 1; n <= len(steps); n++ {
		source := []byte(steps[0])
		if n > 1 {
			source = program(t, steps[:n])
		}
		if typecheckOnly := n != 1 && n != 2 && n != len(steps); typecheckOnly {
			run(t.Context(), t, source, nil, "vet", write(t, dir, source))
			continue
		}
		out := run(t.Context(), t, source, []string{"OPENAI_API_KEY=any", "OPENAI_BASE_URL=" + server.URL()}, "run", write(t, dir, source))
		wants := []string{}
		switch n {
		case 2:
			wants = []string{"completed by gpt-4.1 after 1 attempts"}
		case len(steps):
			wants = []string{"impatient: refused at once", "later: pending", "later: completed", "read: completed"}
		}
		for _, want := range wants {
			if !strings.Contains(out, want) {
				t.Errorf("after step %d the program does not print %q:\n%s", n, want, out)
			}
		}
		t.Logf("after step %d:\n%s", n, out)
		if strings.TrimSpace(out) == "" {
			t.Errorf("after step %d the program prints nothing", n)
		}
	}
}

func write(t *testing.T, dir string, source []byte) string {
	name := filepath.Join(dir, "main.go")
	if err := os.WriteFile(name, source, 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

func run(ctx context.Context, t *testing.T, source []byte, env []string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Env = append(os.Environ(), "GOWORK=") // the workspace has what the program imports
	cmd.Env = append(cmd.Env, env...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("go %s: %v\n%s\n%s", args[0], err, out, source)
	}
	return string(out)
}

// paths are the packages that the steps may use, as an editor adds them.
var paths = []string{
	"context", "encoding/json", "errors", "fmt", "log", "net/http", "os", "os/signal", "syscall", "time",
	"github.com/llmqueue/llmqueue", "github.com/llmqueue/llmqueue/llmhttp", "github.com/openai/openai-go/v3", "github.com/openai/openai-go/v3/option",
}

// program puts steps into one file: what is declared again replaces what was, and the
// imports are those that are used.
func program(t *testing.T, steps []string) []byte {
	files := token.NewFileSet()
	var order []string
	declared := make(map[string]string)
	used := make(map[string]bool)
	for i, step := range steps {
		if i > 0 {
			step = "package main\n\n" + step
		}
		file, err := parser.ParseFile(files, "step"+strconv.Itoa(i+1), step, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		for _, decl := range file.Decls {
			if general, ok := decl.(*ast.GenDecl); ok && general.Tok == token.IMPORT {
				continue
			}
			var code bytes.Buffer
			if err := printer.Fprint(&code, files, decl); err != nil {
				t.Fatal(err)
			}
			name := declares(decl)
			if !slices.Contains(order, name) {
				order = append(order, name)
			}
			declared[name] = code.String()
		}
	}
	for _, code := range declared {
		file, err := parser.ParseFile(files, "", "package main\n\n"+code, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(file, func(n ast.Node) bool {
			if s, ok := n.(*ast.SelectorExpr); ok {
				if x, ok := s.X.(*ast.Ident); ok {
					used[x.Name] = true
				}
			}
			return true
		})
	}
	var source strings.Builder
	source.WriteString("package main\n\nimport (\n")
	for _, path := range paths {
		if name := strings.TrimSuffix(path, "/v3"); used[strings.TrimSuffix(name[strings.LastIndex(name, "/")+1:], "-go")] {
			source.WriteString("\t" + strconv.Quote(path) + "\n")
		}
	}
	source.WriteString(")\n")
	for _, name := range order {
		source.WriteString("\n" + declared[name] + "\n")
	}
	return []byte(source.String())
}

// declares is the name of a declaration, with that of its receiver.
func declares(decl ast.Decl) string {
	switch d := decl.(type) {
	case *ast.FuncDecl:
		if d.Recv != nil {
			return d.Recv.List[0].Type.(*ast.Ident).Name + "." + d.Name.Name
		}
		return d.Name.Name
	case *ast.GenDecl:
		switch s := d.Specs[0].(type) {
		case *ast.TypeSpec:
			return s.Name.Name
		case *ast.ValueSpec:
			return s.Names[0].Name
		}
	}
	return ""
}
