// Package binsize measures how much larger a program gets with each further pair of
// params and result types that it has a queue for.
package binsize

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// Of returns the size in bytes of a program with queues for so many pairs of types, of
// which no two have the same memory layout, so that the compiler cannot share code
// between them.
func Of(ctx context.Context, pairs int) (bytes int64, err error) {
	root, err := library()
	if err != nil {
		return 0, err
	}
	dir, err := os.MkdirTemp("", "binsize")
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	// A workspace of its own: whatever workspace or module the caller is in, the program
	// is built with the library in this repository.
	for name, text := range map[string]string{
		"go.mod":  "module binsize\n\ngo 1.25.0\n",
		"go.work": fmt.Sprintf("go 1.25.0\n\nuse (\n\t.\n\t%q\n)\n", root),
		"main.go": program(pairs),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			return 0, err
		}
	}
	binary := filepath.Join(dir, "binary")
	build := exec.CommandContext(ctx, "go", "build", "-buildvcs=false", "-mod=readonly", "-o", binary, ".")
	build.Dir = dir
	build.Env = append(os.Environ(), "GOFLAGS=", "GOWORK="+filepath.Join(dir, "go.work"))
	if out, err := build.CombinedOutput(); err != nil {
		return 0, fmt.Errorf("building a program with %d pairs of types: %w\n%s", pairs, err, out)
	}
	info, err := os.Stat(binary)
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

// library is the folder of the library's own module, at or above the working directory.
func library() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for ; ; dir = filepath.Dir(dir) {
		text, _ := os.ReadFile(filepath.Join(dir, "go.mod")) // none here
		if strings.HasPrefix(string(text), "module github.com/llmqueue/llmqueue\n") {
			return dir, nil
		}
		if dir == filepath.Dir(dir) {
			return "", errors.New("not inside the repository of llmqueue")
		}
	}
}

// program does with each pair of types what a service does: it submits and waits, hands
// in and asks later, lists, cancels and shuts down.
func program(pairs int) string {
	var text strings.Builder
	text.WriteString(`package main

import (
	"context"
	"fmt"

	"github.com/llmqueue/llmqueue"
)

func use[P, T any](model string, params P, process llmqueue.Processor[P, T]) error {
	ctx := context.Background()
	q, err := llmqueue.NewQueue(model, process, llmqueue.WithLimits(llmqueue.RPM(60), llmqueue.TPM(60_000), llmqueue.Concurrent(4)))
	if err != nil {
		return err
	}
	answer, err := q.Do(ctx, params)
	fmt.Println(answer, err)
	pending, err := q.Submit(ctx, llmqueue.Request[P]{Params: params, NoWait: true})
	fmt.Println(pending.Position, err)
	where, err := q.Status(pending.RequestID)
	fmt.Println(where.Status, err)
	final, err := q.Wait(ctx, pending.RequestID)
	fmt.Println(final.Result, err, q.Cancel(pending.RequestID), q.Info().Pending)
	for r, err := range q.SubmitAll(ctx, func(yield func(llmqueue.Request[P]) bool) {
		yield(llmqueue.Request[P]{Params: params})
	}) {
		fmt.Println(r.Result, err)
	}
	return q.Shutdown(ctx)
}

`)
	for i := range pairs {
		fmt.Fprintf(&text, "type params%d struct { Text string; Numbers [%d]int64 }\n", i, i+1)
		fmt.Fprintf(&text, "type result%d struct { Answer string; Scores [%d]float64 }\n\n", i, i+1)
	}
	text.WriteString("func main() {\n")
	for i := range pairs {
		fmt.Fprintf(&text, "\tfmt.Println(use(\"model-%d\", params%d{}, func(_ context.Context, r llmqueue.Request[params%d]) (result%d, error) { return result%d{Answer: r.Params.Text}, nil }))\n", i, i, i, i, i)
	}
	text.WriteString("}\n")
	return text.String()
}
