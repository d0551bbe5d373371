package program

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// The test binary is a program too: with PROGRAM set, it does what that says.
func TestMain(m *testing.M) {
	if what := os.Getenv("PROGRAM"); what != "" {
		Main("example", func(ctx context.Context, args []string, stdout io.Writer) error {
			switch what {
			case "wait":
				fmt.Fprintln(stdout, "waiting")
				<-ctx.Done()
				return ctx.Err()
			case "fail":
				return errors.New("it broke")
			}
			flags := flag.NewFlagSet("example", flag.ContinueOnError)
			flags.Int("n", 1, "a `number`")
			return Parse(flags, args, stdout)
		})
		return
	}
	os.Exit(m.Run())
}

func TestExit(t *testing.T) {
	for _, tt := range []struct {
		what, stdout, stderr string
		args                 []string
		code                 int
	}{
		{what: "parse"},
		{what: "parse", args: []string{"-h"}, stdout: "Usage of example:\n  -n number\n"},
		{what: "parse", args: []string{"-n", "x"}, stderr: "example: invalid value \"x\"", code: 2},
		{what: "parse", args: []string{"more"}, stderr: "example: unexpected argument \"more\" (see -h)\n", code: 2},
		{what: "fail", stderr: "example: it broke\n", code: 1},
		{what: "wait", stdout: "waiting\n", stderr: "example: stopped: context canceled\n", code: 130},
	} {
		t.Run(strings.Join(append([]string{tt.what}, tt.args...), " "), func(t *testing.T) {
			cmd := exec.CommandContext(t.Context(), os.Args[0], tt.args...)
			cmd.Env = append(os.Environ(), "PROGRAM="+tt.what)
			var stderr bytes.Buffer
			cmd.Stderr = &stderr
			pipe, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			var stdout []byte
			if tt.what == "wait" {
				stdout = make([]byte, len("waiting\n"))
				if _, err := io.ReadFull(pipe, stdout); err != nil {
					t.Fatal(err)
				}
				if err := cmd.Process.Signal(os.Interrupt); err != nil {
					t.Skip("this system has no Ctrl-C to send: ", err)
				}
			}
			rest, err := io.ReadAll(pipe)
			if err != nil {
				t.Fatal(err)
			}
			stdout = append(stdout, rest...)
			_ = cmd.Wait() // the exit code says it
			if code := cmd.ProcessState.ExitCode(); code != tt.code {
				t.Errorf("exit code %d, want %d", code, tt.code)
			}
			if !strings.HasPrefix(string(stdout), tt.stdout) || !strings.HasPrefix(stderr.String(), tt.stderr) {
				t.Errorf("stdout %q, stderr %q; want %q, %q", stdout, stderr.String(), tt.stdout, tt.stderr)
			}
			if strings.Count(stderr.String(), "\n") > 1 {
				t.Errorf("more than one line:\n%s", stderr.String())
			}
		})
	}
}
