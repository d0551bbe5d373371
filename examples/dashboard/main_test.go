package main

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
)

// The page is there while the program runs, and the program ends when it is told to,
// although somebody watches.
func TestRun(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	r, w := io.Pipe()
	ended := make(chan error, 1)
	go func() {
		ended <- run(ctx, []string{"-addr", "127.0.0.1:0"}, w)
		w.Close()
	}()
	out := bufio.NewReader(r)
	line, err := out.ReadString('\n')
	url, ok := strings.CutPrefix(strings.TrimSpace(line), "Open ")
	if err != nil || !ok {
		t.Fatalf("it printed %q: %v", line, err)
	}
	res, err := http.Get(url + "stream")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	stream := bufio.NewReader(res.Body)
	for seen := ""; !strings.Contains(seen, `"model":"gpt-4.1-mini"`); {
		if seen, err = stream.ReadString('\n'); err != nil {
			t.Fatal(err)
		}
	}
	cancel()
	rest, _ := io.ReadAll(out)
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("after Ctrl-C it returned %v", err)
	}
	if !strings.Contains(string(rest), "gpt-4.1-mini") {
		t.Errorf("it reported %q", rest)
	}
}

func TestEndsByItself(t *testing.T) {
	if err := run(t.Context(), []string{"-addr", "127.0.0.1:0", "-for", "10ms"}, io.Discard); err != nil {
		t.Error(err)
	}
	if err := run(t.Context(), []string{"-for", "-1s"}, io.Discard); err == nil {
		t.Error("a negative duration was taken")
	}
}
