package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// hostile is what an answer and an id may be, to whoever writes them into a page.
const hostile = `</script><script>document.title='taken'</script><img src=x onerror="document.title='taken'"><!--<b>&amp;`

// resultLine is a line of results with an answer or, if there is a code, a failure.
func resultLine(id, model, answer, code string, input, output int) string {
	line := map[string]any{
		"id": "batch_req_x", "custom_id": id, "response": nil, "error": nil,
		"llmq": map[string]any{"line": 1, "model": model, "latency_ms": 1500, "attempts": 1, "input_tokens": input, "output_tokens": output},
	}
	if code != "" {
		line["error"] = map[string]any{"code": code, "message": answer}
	} else {
		line["response"] = map[string]any{"status_code": 200, "body": map[string]any{"choices": []any{map[string]any{"message": map[string]any{"content": answer}}}}}
	}
	data, _ := json.Marshal(line)
	return string(data)
}

// viewed writes results and their page into a folder.
func viewed(t *testing.T, lines ...string) (dir, page string) {
	t.Helper()
	dir = t.TempDir()
	write(t, dir, "out.jsonl", lines...)
	write(t, dir, "prices.yaml", "m: {input: 1000, output: 1000}")
	if code, stdout, stderr := llmq(t, dir, "view", "out.jsonl", "--prices", "prices.yaml"); code != 0 || stdout != "" {
		t.Fatalf("exit code %d: %s%s", code, stdout, stderr)
	}
	data, err := os.ReadFile(filepath.Join(dir, "out.jsonl.html"))
	if err != nil {
		t.Fatal(err)
	}
	return dir, string(data)
}

func TestThePageHoldsAllItNeedsAndNoMarkupOfOthers(t *testing.T) {
	t.Parallel()
	_, page := viewed(t, resultLine(hostile, "m<i>", hostile, "", 1, 2), resultLine("b", "m", hostile, "<u>", 1, 2))
	if n := strings.Count(page, "<script"); n != 2 || strings.Contains(page, "<img") || strings.Contains(page, "<!--") || strings.Contains(page, "<i>") || strings.Contains(page, "<u>") {
		t.Errorf("%d scripts, and markup of an answer, are in the page:\n%s", n, page)
	}
	if !strings.Contains(page, `http-equiv="Content-Security-Policy" content="default-src &#39;none&#39;; script-src &#39;sha256-`) {
		t.Error("the page has no policy")
	}
	data := regexp.MustCompile(`(?s)id="data">(.*?)</script>`).FindStringSubmatch(page)
	if m := regexp.MustCompile(`(?i)https?://|\bsrc=|<link|@import|url\(`).FindString(strings.Replace(page, data[1], "", 1)); m != "" {
		t.Errorf("the page asks for something: %s", m)
	}
	var held struct{ Records [][]any }
	if err := json.Unmarshal([]byte(data[1]), &held); err != nil || len(held.Records) != 2 || held.Records[0][0] != hostile || held.Records[0][3] != hostile {
		t.Errorf("the page holds other records: %v, %v", err, held)
	}
}

// browse opens a page in a browser and returns what it shows then, as HTML. What is on the
// console fails the test: a breach of the policy is there.
func browse(t *testing.T, dir, fragment string) string {
	t.Helper()
	browser := os.Getenv("CHROME")
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "headless-shell"} {
		if path, err := exec.LookPath(name); browser == "" && err == nil {
			browser = path
		}
	}
	if browser == "" {
		t.Skip("no browser is installed: install chromium, or name a browser in the environment variable CHROME")
	}
	cmd := exec.CommandContext(t.Context(), browser, "--headless", "--no-sandbox", "--disable-gpu", "--user-data-dir="+t.TempDir(), "--enable-logging=stderr",
		"--virtual-time-budget=5000", "--dump-dom", "file://"+filepath.Join(dir, "out.jsonl.html")+fragment)
	var out, console bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &console
	if err := cmd.Run(); err != nil {
		t.Fatalf("the browser: %v: %s", err, console.String())
	}
	for line := range strings.Lines(console.String()) {
		if strings.Contains(line, ":CONSOLE") {
			t.Errorf("on the browser's console: %s", line)
		}
	}
	return out.String()
}

// shownSums are the sums and the number of records that are drawn.
func shownSums(dom string) (sums string, drawn int) {
	if m := regexp.MustCompile(`id="sums"[^>]*>([^<]*)<`).FindStringSubmatch(dom); m != nil {
		sums = m[1]
	}
	return sums, strings.Count(dom, "<details")
}

func TestThePageInABrowser(t *testing.T) {
	t.Parallel()
	lines := []string{resultLine("first", "m", hostile, "", 1000, 2000), resultLine("bad <i>", "n", "It broke.", "timeout", 0, 0)}
	for i := range 10_000 {
		lines = append(lines, resultLine(fmt.Sprintf("r%d", i), "m", fmt.Sprintf("Answer %d", i), "", 1, 1))
	}
	dir, _ := viewed(t, lines...)
	for _, c := range []struct {
		name, fragment, sums string
		drawn                int
		has                  []string
	}{
		{"all", "", "10,002 of 10,002 requests: 10,001 answered, 1 failed · 11,000 tokens in, 12,000 out · $23.00 (1 without a price)", 100,
			[]string{"Show more (9,902 left)", "failed: timeout (1)", "&lt;/script&gt;&lt;script&gt;", "<title>out.jsonl</title>"}},
		{"one kind of failure", "#show=%3Dtimeout", "1 of 10,002 requests: 0 answered, 1 failed", 1, []string{"<pre class=\"\">It broke.</pre>", "bad &lt;i&gt;"}},
		{"a search", "#find=ANSWER+9999", "1 of 10,002 requests: 1 answered", 1, []string{">r9999<", "<pre class=\"\">Answer 9999</pre>"}},
		{"an order", "#sort=tokens&model=%3Dm", "10,001 of 10,002 requests", 100, []string{`<div id="list"><details class=""><summary class=""><span class="id" title="first">first</span>`}},
		{"nothing", "#find=nowhere", "0 of 10,002 requests", 0, []string{`class="none">Nothing fits.`}},
	} {
		t.Run(c.name, func(t *testing.T) {
			dom := browse(t, dir, c.fragment)
			body, _, _ := strings.Cut(dom, `<script type="application/json"`)
			sums, drawn := shownSums(body)
			if !strings.HasPrefix(sums, c.sums) || drawn != c.drawn {
				t.Errorf("%d records are drawn, want %d; the sums are %q, want %q", drawn, c.drawn, sums, c.sums)
			}
			for _, want := range c.has {
				if !strings.Contains(body, want) {
					t.Errorf("the page does not show %q:\n%.3000s", want, body[max(strings.Index(body, "<body"), 0):])
				}
			}
		})
	}
}

func TestViewErrors(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	code, _, stderr := llmq(t, dir, "view", "nowhere.jsonl")
	oneLine(t, code, 2, stderr, "cannot read the results: open nowhere.jsonl")
	write(t, dir, "bad.jsonl", "{}", "{}")
	code, _, stderr = llmq(t, dir, "view", "bad.jsonl")
	oneLine(t, code, 2, stderr, `bad.jsonl:1: no line of results: it has no "custom_id"`)
	if left, _ := filepath.Glob(filepath.Join(dir, "*.html")); left != nil {
		t.Errorf("left behind: %v", left)
	}
}
