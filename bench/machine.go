package main

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
)

// machine says what the figures were measured on, as far as that is known.
func machine(s settings) string {
	parts := []string{
		fmt.Sprintf("Machine: %s%d CPUs, %s/%s", processor(), runtime.GOMAXPROCS(0), runtime.GOOS, runtime.GOARCH),
		"Go: " + runtime.Version(),
	}
	if c := commit(); c != "" {
		parts = append(parts, "Commit: "+c)
	}
	if s.costs {
		parts = append(parts, fmt.Sprintf("Passes: %d", s.passes))
	}
	line := strings.Join(parts, ". ") + "."
	if v := versions(); v != "" {
		line += "\nBeside: " + v + "."
	}
	return line
}

// processor is the model of the CPU where Linux tells it.
func processor() string {
	info, _ := os.ReadFile("/proc/cpuinfo") // not there on other systems
	for line := range strings.Lines(string(info)) {
		if name, value, _ := strings.Cut(line, ":"); strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value) + ", "
		}
	}
	return ""
}

// commit asks git, because go run does not stamp the programs it builds.
func commit() string {
	out, err := exec.Command("git", "describe", "--always", "--dirty", "--exclude=*").Output()
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(out))
}

// versions are those of the neighbors.
func versions() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return ""
	}
	var found []string
	for _, dep := range info.Deps {
		neighbors := []string{"github.com/alitto/pond/v2", "github.com/panjf2000/ants/v2", "github.com/failsafe-go/failsafe-go", "github.com/openai/openai-go/v3", "golang.org/x/time", "golang.org/x/sync"}
		if slices.Contains(neighbors, dep.Path) {
			found = append(found, dep.Path+" "+dep.Version)
		}
	}
	return strings.Join(found, ", ")
}
