// Outputs keeps what documents show of the examples' output true. It looks for blocks
// whose first line is a command such as "$ go run ./examples/openai -no-queue".
//
//	go run ./examples/internal/outputs examples/README.md             # run each, and put in what it prints
//	go run ./examples/internal/outputs -only plan examples/README.md  # one example
//	go run ./examples/internal/outputs -check DIR examples/README.md  # compare with DIR/openai, DIR/plan, …
//
// Numbers, durations, the simulator's words and the order of lines differ from run to
// run; -check compares what is left. It leaves out commands with arguments.
package main

import (
	"flag"
	"fmt"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

func main() {
	log.SetFlags(0)
	check := flag.String("check", "", "`folder` with the output of each example, in a file of its name")
	only := flag.String("only", "", "the one `example` to run")
	flag.Parse()
	for _, path := range flag.Args() {
		text, err := os.ReadFile(path)
		if err != nil {
			log.Fatal(err)
		}
		if *check != "" {
			err = compare(string(text), *check)
		} else {
			err = renew(path, string(text), *only)
		}
		if err != nil {
			log.Fatalf("%s: %v", path, err)
		}
	}
}

// block is a fenced block with a command on its first line and what that prints below.
var block = regexp.MustCompile("(?ms)^```\n\\$ go run \\./examples/([a-z_-]+)([^\n]*)\n(.*?)^```$")

// renew runs the command of each block and puts its output in.
func renew(path, text, only string) error {
	var failed error
	text = block.ReplaceAllStringFunc(text, func(found string) string {
		m := block.FindStringSubmatch(found)
		if failed != nil || only != "" && m[1] != only {
			return found
		}
		out, err := output(m[1], strings.Fields(m[2]))
		if err != nil {
			failed = fmt.Errorf("go run ./examples/%s%s: %w", m[1], m[2], err)
			return found
		}
		return "```\n$ go run ./examples/" + m[1] + m[2] + "\n" + out + "```"
	})
	if failed != nil {
		return failed
	}
	return os.WriteFile(path, []byte(text), 0o644)
}

// output runs an example, which finds no key.
func output(name string, args []string) (string, error) {
	cmd := exec.Command("go", append([]string{"run", "./examples/" + name}, args...)...)
	cmd.Stderr = os.Stderr
	cmd.Env = slices.DeleteFunc(os.Environ(), func(variable string) bool {
		name, _, _ := strings.Cut(variable, "=")
		return keys.MatchString(name)
	})
	out, err := cmd.Output()
	return tidy(string(out)), err
}

// keys are the variables with which an example would ask a real service.
var keys = regexp.MustCompile(`^(OPENAI|ANTHROPIC|GEMINI|GOOGLE|OLLAMA|AZURE|AWS)_`)

// tidy takes off spaces at the ends of lines and empty lines at both ends.
func tidy(out string) string {
	lines := strings.Split(strings.Trim(out, "\n"), "\n")
	for i := range lines {
		lines[i] = strings.TrimRight(lines[i], " ")
	}
	return strings.Join(lines, "\n") + "\n"
}

// compare says which lines of a block its example does not print any more, and which it prints besides.
func compare(text, dir string) error {
	var wrong []string
	for _, m := range block.FindAllStringSubmatch(text, -1) {
		out, err := os.ReadFile(filepath.Join(dir, m[1]))
		if m[2] != "" || os.IsNotExist(err) {
			continue
		} else if err != nil {
			return err
		}
		shown, printed := shapes(m[3]), shapes(tidy(string(out)))
		for line, first := range shown {
			if _, ok := printed[line]; !ok {
				wrong = append(wrong, fmt.Sprintf("%s does not print: %s", m[1], first))
			}
		}
		for line, first := range printed {
			if _, ok := shown[line]; !ok {
				wrong = append(wrong, fmt.Sprintf("%s prints, which is not shown: %s", m[1], first))
			}
		}
	}
	if len(wrong) > 0 {
		slices.Sort(wrong)
		return fmt.Errorf("run make outputs and read the difference:\n%s", strings.Join(wrong, "\n"))
	}
	return nil
}

var (
	ids     = regexp.MustCompile(`\b[0-9a-z]{8}-[0-9a-z]+-[0-9a-z]+\b`) // of requests to which a queue gave one
	numbers = regexp.MustCompile(`(?:[0-9][0-9.,]*(?:h|ms|m|s|µs|ns)?)+`)
	words   = regexp.MustCompile(`\b[a-z]{3}\b|\b[a-z]{1,3}…|…`)
	plurals = regexp.MustCompile(`\b(attempt|call|chunk|question)s\b`)
	spaces  = regexp.MustCompile(`[ \t]+`)
)

// shapes gives the lines of an output without what differs from run to run, each with the
// first line that had it.
func shapes(out string) map[string]string {
	found := make(map[string]string)
	for line := range strings.Lines(out) {
		line = strings.TrimSpace(line)
		shape := numbers.ReplaceAllString(ids.ReplaceAllString(line, "ID"), "#")
		shape = words.ReplaceAllString(shape, "")
		shape = plurals.ReplaceAllString(shape, "$1")
		shape = strings.TrimSpace(spaces.ReplaceAllString(shape, " "))
		if _, ok := found[shape]; !ok {
			found[shape] = line
		}
	}
	return found
}
