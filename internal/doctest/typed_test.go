package doctest

import (
	"bytes"
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

	"github.com/stretchr/testify/require"

	_ "github.com/llmqueue/llmqueue/llmhttp" // so that the tests run again when it changes
	"github.com/llmqueue/llmqueue/llmtest"
)

// gettingStarted makes its reader type a program, step by step.
const gettingStarted = "docs/guides/getting_started.md"

// step is a block that adds to the program. Blocks marked go are fragments of their own.
var step = regexp.MustCompile("(?ms)^```golang\n(.*?)^```$")

func steps(t *testing.T) []string {
	var code []string
	for _, m := range step.FindAllStringSubmatch(read(t, gettingStarted), -1) {
		formatted, err := format.Source([]byte(m[1]))
		require.NoError(t, err, m[1])
		require.Equal(t, string(formatted), m[1], "not as gofmt has it")
		code = append(code, m[1])
	}
	require.Greater(t, len(code), 1, "%s has no steps", gettingStarted)
	return code
}

// TestTypedInOrder puts the steps into one file as a reader would. The program compiles after
// every step, and what can be run without a key is run against a simulator.
func TestTypedInOrder(t *testing.T) {
	if testing.Short() {
		t.Skip("it builds a program with OpenAI's SDK, which takes a minute the first time")
	}
	server, err := llmtest.Start(llmtest.OpenAI(llmtest.RPM(500), llmtest.TPM(200_000)))
	require.NoError(t, err)
	defer server.Close()
	steps := steps(t)
	dir := t.TempDir()
	printed := map[int][]string{ // by the programs that run, after so many steps
		1:          nil, // only the answer, whose words are the simulator's
		2:          {"completed by gpt-4.1 after 1 attempts"},
		len(steps): {"impatient: refused at once", "later: pending", "later: completed", "read: completed"},
	}
	for n := 1; n <= len(steps); n++ {
		source := []byte(steps[0])
		if n > 1 {
			source = program(t, steps[:n])
		}
		file := filepath.Join(dir, "main.go")
		require.NoError(t, os.WriteFile(file, source, 0o600))
		wants, runs := printed[n]
		if !runs {
			runGo(t, source, nil, "vet", file)
			continue
		}
		out := runGo(t, source, []string{"OPENAI_API_KEY=any", "OPENAI_BASE_URL=" + server.URL()}, "run", file)
		require.NotEmpty(t, strings.TrimSpace(out), "after step %d the program prints nothing", n)
		for _, want := range wants {
			require.Contains(t, out, want, "after step %d", n)
		}
	}
}

func runGo(t *testing.T, source []byte, env []string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", args...)
	cmd.Env = append(os.Environ(), "GOWORK=") // the workspace has what the program imports
	cmd.Env = append(cmd.Env, env...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("go %s: %v\n%s\n%s", args[0], err, out, source)
	}
	return string(out)
}

// typed are the packages that the steps may use, as an editor adds them.
var typed = []string{
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
	for _, path := range typed {
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
