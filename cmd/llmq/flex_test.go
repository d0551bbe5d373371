package main

import (
	"encoding/json"
	"math"
	"strings"
	"testing"

	"github.com/llmqueue/llmqueue/llmtest"
)

// TestViaFlex: each call asks for the tier, costs half, and waits where the tier has no room,
// which costs it no attempts.
func TestViaFlex(t *testing.T) {
	t.Parallel()
	srv := serve(t, nil, llmtest.WithFaultScript(
		llmtest.Fault{Kind: llmtest.FaultFull, Status: 429}, llmtest.Fault{Kind: llmtest.FaultFull, Status: 429}, llmtest.Fault{Kind: llmtest.FaultFull, Status: 429},
	))
	dir := t.TempDir()
	write(t, dir, "in.jsonl", chats(5, 10)...)
	write(t, dir, "prices.yaml", "m: {input: 1000, output: 1000}")
	code, stdout, stderr := llmq(t, dir, "run", "in.jsonl", "-o", "out.jsonl", "--base-url", srv.URL(), "--via", "flex", "--attempts", "1", "--prices", "prices.yaml", "--json")
	list := readResults(t, dir, "out.jsonl")
	eachOnce(t, list, 5)
	if code != 0 || len(failures(list)) > 0 {
		t.Fatalf("exit code %d, failed: %v: %s", code, failures(list), stderr)
	}
	var sums struct {
		Cost   float64 `json:"cost_usd"`
		Input  float64 `json:"input_tokens"`
		Output float64 `json:"output_tokens"`
	}
	for _, args := range [][]string{nil, {"stats", "out.jsonl", "--prices", "prices.yaml", "--json"}} {
		if args != nil {
			_, stdout, _ = llmq(t, dir, args...)
		}
		all := strings.Split(strings.TrimSpace(stdout), "\n")
		if err := json.Unmarshal([]byte(all[len(all)-1]), &sums); err != nil {
			t.Fatal(err)
		}
		if half := (sums.Input + sums.Output) * 1000 / 1e6 / 2; half == 0 || math.Abs(sums.Cost-half) > half/1000 {
			t.Errorf("%v: it costs $%v, want half the price: $%v", args, sums.Cost, half)
		}
	}
}

// TestViaFlexNamesTheTier in the words of each dialect, in place of another.
func TestViaFlexNamesTheTier(t *testing.T) {
	t.Parallel()
	srv := record(t)
	dir := t.TempDir()
	write(t, dir, "in.jsonl",
		`{"custom_id":"a","body":{"model":"m","service_tier":"auto","messages":[{"role":"user","content":"a"}]}}`,
		`{"key":"b","request":{"model":"m","contents":[{"parts":[{"text":"b"}]}]}}`)
	llmq(t, dir, "run", "in.jsonl", "-o", "out.jsonl", "--base-url", srv.URL, "--via", "flex")
	if len(srv.bodies) != 2 {
		t.Fatalf("sent: %v", srv.bodies)
	}
	for _, body := range srv.bodies {
		member := "service_tier"
		if body["contents"] != nil {
			member = "serviceTier"
		}
		if body[member] != "flex" {
			t.Errorf("sent: %v", body)
		}
	}
}

func TestWhereThereIsNoFlex(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write(t, dir, "in.jsonl", chats(1, 10)...)
	write(t, dir, "embed.jsonl", `{"custom_id":"a","url":"/v1/embeddings","body":{"model":"m","input":"x"}}`)
	for url, want := range map[string]string{
		"https://api.anthropic.com":      "api.anthropic.com does not have: run without it",
		"https://api.groq.com/openai/v1": "costs the same",
	} {
		code, _, stderr := llmq(t, dir, "run", "in.jsonl", "-o", "out.jsonl", "--base-url", url, "--via", "flex")
		oneLine(t, code, 2, stderr, want)
	}
	code, _, stderr := llmq(t, dir, "run", "embed.jsonl", "-o", "out.jsonl", "--base-url", "http://127.0.0.1:9/v1", "--via", "flex")
	oneLine(t, code, 2, stderr, `embed.jsonl:1: "/v1/embeddings" has no tier`)
}
