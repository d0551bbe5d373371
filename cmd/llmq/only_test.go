package main

import (
	"slices"
	"strings"
	"testing"
)

// TestRetryOnlySomeFailures runs those of the codes and leaves the others, whatever the request
// is now, and counts them before in the same way.
func TestRetryOnlySomeFailures(t *testing.T) {
	t.Parallel()
	line := func(id, code string) string {
		return `{"id":"batch_req_00000000000000aa","custom_id":"` + id + `","response":null,"error":{"code":"` + code + `","message":"x"},"llmq":{"line":1,"model":"m","request_hash":"00000000000000aa"}}`
	}
	for only, want := range map[string][]string{
		"timeout":           {"r0"},
		"http_5xx":          {"r1", "r2"},
		"http_400,http_503": {"r2", "r3"},
		"http_50":           nil,
		"":                  {"r0", "r1", "r2", "r3"},
	} {
		t.Run(only, func(t *testing.T) {
			srv, dir := serve(t, nil), t.TempDir()
			write(t, dir, "in.jsonl", chats(4, 10)...)
			// r0 failed otherwise before.
			write(t, dir, "out.jsonl", line("r0", "http_500"), line("r0", "timeout"), line("r1", "http_500"), line("r2", "http_503"), line("r3", "http_400"))
			args := []string{"retry", "in.jsonl", "-o", "out.jsonl", "--base-url", srv.URL(), "--only", only}
			if _, stdout, _ := llmq(t, dir, append(args, "--dry-run")...); !strings.HasPrefix(stdout, string(rune('0'+len(want)))+" requests") {
				t.Errorf("foretold otherwise, want %d: %s", len(want), stdout)
			}
			code, _, stderr := llmq(t, dir, args...)
			var ran []string
			list := readResults(t, dir, "out.jsonl")
			eachOnce(t, list, 4)
			for _, r := range list {
				if r.Error == nil {
					ran = append(ran, r.ID)
				}
			}
			slices.Sort(ran)
			if wantCode := min(4-len(want), 1); !slices.Equal(ran, want) || code != wantCode {
				t.Errorf("ran %v, want %v; exit code %d, want %d: %s", ran, want, code, wantCode, stderr)
			}
			if says := strings.Contains(stderr, "no failure in out.jsonl is http_50: there are http_400, http_500, http_503, timeout"); says != (want == nil) {
				t.Errorf("said: %s", stderr)
			}
		})
	}
}
