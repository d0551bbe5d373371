package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const document = "# Title\n\n```\n$ go run ./examples/some\n3 of 7 questions answered in 1h2m3.5s after 1 attempt\nrequest \"2psbaoc6-2-0\" failed\nsun hen she had ou…\n```\n\n```\n$ go run ./examples/some -flag\nanything\n```\n"

// What differs from run to run is not compared; the rest is.
func TestCompare(t *testing.T) {
	for _, tt := range []struct{ printed, want string }{
		{"red fox\n5 of 9 questions answered in 12ms after 2 attempts\nrequest \"gsuv27f5-2-0\" failed\n\n", ""},
		{"red fox\n5 of 9 questions failed in 12ms after 2 attempts\nrequest \"gsuv27f5-2-0\" failed\n", "some does not print: 3 of 7 questions answered"},
		{"red fox\n5 of 9 questions answered in 12ms after 2 attempts\nrequest \"gsuv27f5-2-0\" failed\nmore follows\n", "some prints, which is not shown: more follows"},
	} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "some"), []byte(tt.printed), 0o600); err != nil {
			t.Fatal(err)
		}
		err := compare(document, dir)
		if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%q: got %v, want %q", tt.printed, err, tt.want)
		}
	}
	if err := compare(document, t.TempDir()); err != nil {
		t.Errorf("an example that was not run is compared: %v", err)
	}
}

// Every output that the examples' README shows is found.
func TestBlocks(t *testing.T) {
	text, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	if shown, found := strings.Count(string(text), "\n$ go run "), len(block.FindAllString(string(text), -1)); shown != found || found == 0 {
		t.Errorf("%d commands with their output, %d found", shown, found)
	}
}
