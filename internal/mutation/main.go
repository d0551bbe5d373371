// Mutation shows what the tests of the core are worth: it puts faults into it, one at a
// time, and says which test noticed each.
//
//	go run ./internal/mutation              all of them
//	go run ./internal/mutation -list        what there is
//	go run ./internal/mutation -only 7      one of them
//	go run ./internal/mutation -internal    without the root's tests, which take longer
//
// The faults go into a copy of the module in a temporary folder. The tests below internal
// run first, and the root's when none of them noticed. The exit status is 1 when a fault
// survived, and 2 when something else went wrong: a fault whose text is not in the code any
// more, or one that does not compile.
package main

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"time"
)

// fault is something that could be wrong.
type fault struct {
	file   string // from the root
	old    string // is in it once
	new    string
	notice string // what a user would notice
}

func main() {
	list := flag.Bool("list", false, "list the faults and do nothing")
	only := flag.Int("only", 0, "put in this `one` only, counted from 1")
	inside := flag.Bool("internal", false, "run the tests below internal only")
	flag.Parse()
	os.Exit(run(*list, *only, *inside))
}

func run(list bool, only int, inside bool) int {
	root, err := moduleRoot()
	if err == nil {
		err = checkAnchors(root, faults)
	}
	if err == nil && (only < 0 || only > len(faults)) {
		err = fmt.Errorf("there are %d faults, and no fault %d", len(faults), only)
	}
	if err != nil {
		return wrong(err)
	}
	if list {
		for i, f := range faults {
			fmt.Printf("%2d  %s: %s\n", i+1, f.file, f.notice)
		}
		return 0
	}
	dir, err := os.MkdirTemp("", "mutation")
	if err != nil {
		return wrong(err)
	}
	defer os.RemoveAll(dir)
	if err := copyModule(root, dir); err != nil {
		return wrong(err)
	}
	stages := []stage{{"./internal/endpoint", "./internal/engine", "./internal/model"}, {"."}}
	if inside {
		stages = stages[:1]
	}
	if err := sound(dir, stages); err != nil {
		return wrong(err)
	}
	begin, noticed, survived, bad := time.Now(), 0, 0, 0
	for i, f := range faults {
		if only != 0 && only != i+1 {
			continue
		}
		by, err := f.put(dir, stages)
		switch {
		case err != nil:
			bad = wrong(fmt.Errorf("fault %d, %s: %w", i+1, f.file, err))
		case by == "":
			survived++
			fmt.Printf("%2d  SURVIVED  %s: %s\n", i+1, f.file, f.notice)
		default:
			noticed++
			fmt.Printf("%2d  noticed   %s: %s (%s)\n", i+1, f.file, f.notice, by)
		}
	}
	fmt.Printf("%d noticed, %d survived, in %v\n", noticed, survived, time.Since(begin).Round(time.Second))
	if bad == 0 && survived > 0 {
		return 1
	}
	return bad
}

func wrong(err error) int {
	fmt.Fprintln(os.Stderr, "mutation:", err)
	return 2
}

func moduleRoot() (string, error) {
	out, err := exec.Command("go", "env", "GOMOD").Output()
	if err != nil {
		return "", err
	}
	return filepath.Dir(strings.TrimSpace(string(out))), nil
}

// checkAnchors finds faults whose text is not in the code, or not once.
func checkAnchors(root string, faults []fault) error {
	var all []error
	for i, f := range faults {
		text, err := os.ReadFile(filepath.Join(root, f.file))
		if err != nil {
			return err
		}
		if n := strings.Count(string(text), f.old); n != 1 || f.old == f.new {
			all = append(all, fmt.Errorf("fault %d: its text is in %s %d times, it has to be once and to change:\n%s", i+1, f.file, n, f.old))
		}
	}
	return errors.Join(all...)
}

// copyModule copies the files that the tests of the root and of internal need.
func copyModule(from, to string) error {
	return filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		if d.IsDir() {
			if rel != "." && (strings.HasPrefix(d.Name(), ".") || isModule(path)) {
				return fs.SkipDir
			}
			return os.MkdirAll(filepath.Join(to, rel), 0o755)
		}
		if !d.Type().IsRegular() || d.Name() == "go.work" || d.Name() == "go.work.sum" {
			return nil
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(to, rel), text, 0o644)
	})
}

// isModule reports whether a folder is a module of its own.
func isModule(dir string) bool {
	_, err := os.Stat(filepath.Join(dir, "go.mod"))
	return err == nil
}

// stage is what is tested in one run of go test.
type stage []string

// sound makes sure that the tests pass as long as nothing is wrong.
func sound(dir string, stages []stage) error {
	for _, s := range stages {
		if out, err := s.test(dir); err != nil {
			return fmt.Errorf("go test %s fails without any fault:\n%s", strings.Join(s, " "), out)
		}
	}
	return nil
}

func (s stage) test(dir string) (string, error) {
	args := append([]string{"test", "-short", "-failfast", "-vet=off", "-trimpath", "-timeout", "90s"}, s...)
	cmd := exec.Command("go", args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GOWORK=off")
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// put puts the fault into the copy and tells which test noticed it, "" when none did.
func (f fault) put(dir string, stages []stage) (by string, err error) {
	path := filepath.Join(dir, f.file)
	sane, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	if err := os.WriteFile(path, bytes.Replace(sane, []byte(f.old), []byte(f.new), 1), 0o644); err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, os.WriteFile(path, sane, 0o644)) }()
	for _, s := range stages {
		out, failed := s.test(dir)
		if failed == nil {
			continue
		}
		if strings.Contains(out, "[build failed]") || strings.Contains(out, "[setup failed]") {
			return "", fmt.Errorf("it does not compile:\n%s", out)
		}
		return noticedBy(out), nil
	}
	return "", nil
}

var (
	failedTest  = regexp.MustCompile(`(?m)^--- FAIL: (\S+)`)
	runningTest = regexp.MustCompile(`(?m)^\s+(Test\S+) \(`)
	panicked    = regexp.MustCompile(`(?m)^(panic|fatal error): (.*)$`)
)

// noticedBy finds in what go test printed which test failed, or how the program ended.
func noticedBy(out string) string {
	if m := failedTest.FindStringSubmatch(out); m != nil {
		return m[1]
	}
	if m := panicked.FindStringSubmatch(out); m != nil {
		if t := runningTest.FindStringSubmatch(out); t != nil {
			return t[1] + ": " + m[2]
		}
		return m[2]
	}
	return "it failed"
}
