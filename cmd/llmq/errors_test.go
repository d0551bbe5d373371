package main

import (
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/llmqueue/llmqueue/llmtest"
)

// TestBadInputGetsOneLineAndSendsNothing names what is wrong, where, and what to do.
func TestBadInputGetsOneLineAndSendsNothing(t *testing.T) {
	t.Parallel()
	srv := serve(t, nil)
	good := chats(1, 10)[0]
	other := func(from, to string) string {
		return strings.Replace(strings.Replace(good, "r0", "r1", 1), from, to, 1)
	}
	for name, c := range map[string]struct {
		lines []string
		flags []string
		want  string
	}{
		"not JSON":           {[]string{good, "", `{"custom_id": oops}`}, nil, "in.jsonl:3: not valid JSON at byte 15"},
		"cut off":            {[]string{good, `{"custom_id":"a","body":{`}, nil, "in.jsonl:2: the JSON object does not end on this line"},
		"no object":          {[]string{good, `[1,2]`}, nil, "in.jsonl:2: not a JSON object"},
		"null":               {[]string{"null"}, nil, "in.jsonl:1: not a JSON object"},
		"unknown field":      {[]string{good, other(`"method"`, `"metod"`)}, nil, `in.jsonl:2: unknown field "metod"`},
		"another method":     {[]string{other("POST", "GET")}, nil, `in.jsonl:1: "method" is "GET"`},
		"a whole address":    {[]string{other("/v1/chat", "https://x/v1/chat")}, nil, `in.jsonl:1: "url" is "https://x`},
		"no id":              {[]string{`{"body":{"model":"m","messages":[]}}`}, nil, `in.jsonl:1: no "custom_id"`},
		"an id twice":        {[]string{good, other("x", "x"), good}, nil, `in.jsonl:3: the id "r0" stands on an earlier line`},
		"no model":           {[]string{`{"messages":[]}`}, nil, `in.jsonl:1: no "model"`},
		"no request":         {[]string{`{"question":"Why?"}`}, nil, "give a --template over question"},
		"a stream":           {[]string{`{"model":"m","messages":[],"stream":true}`}, nil, `"stream" is true`},
		"in background":      {[]string{`{"model":"m","input":"x","background":true}`}, nil, `"background" is true`},
		"wrong type":         {[]string{`{"model":7,"messages":[]}`}, nil, `"model" is a number`},
		"missing field":      {[]string{`{"question":"Why?","answer":1}`}, []string{"--template", "{{.questoin}}", "--model", "m"}, `the template wants a field "questoin", there are answer, question`},
		"broken template":    {[]string{good}, []string{"--template", "{{.question", "--model", "m"}, "--template: "},
		"template, no model": {[]string{good}, []string{"--template", "x"}, "--template needs --model"},
		"no input":           {nil, nil, "no such file"},
		"unknown flag":       {[]string{good}, []string{"--rmp", "5"}, "unknown flag: --rmp: see llmq run --help"},
		"no number":          {[]string{good}, []string{"--rpm", "many"}, `invalid argument "many" for "--rpm"`},
		"negative":           {[]string{good}, []string{"--rpm", "-5"}, "--rpm -5: want 1 or more"},
		"no limit given":     {[]string{good}, []string{"--limits", "given"}, "--limits given, but no limit is"},
		"budget, no prices":  {[]string{good}, []string{"--budget-usd", "5"}, "need --prices"},
		"a key in a header":  {[]string{good}, []string{"--header", "Authorization: Bearer sk-secret"}, "keys stand in no flag"},
		"a key as a name":    {[]string{good}, []string{"--key-env", "sk-secret"}, "wants the name of a variable, not the key"},
		"a key in the URL":   {[]string{good}, []string{"--base-url", "https://sk-secret@host/v1"}, "keys belong into the environment or a file"},
		"no variable":        {[]string{good}, []string{"--key-env", "NOT_SET"}, "NOT_SET is not set"},
		"no key file":        {[]string{good}, []string{"--key-file", "nowhere"}, "--key-file: open nowhere"},
		"no address":         {[]string{good}, []string{"--base-url", "localhost:80"}, "--base-url is no http or https address"},
		"unknown accounting": {[]string{good}, []string{"--accounting", "acme"}, `no accounting "acme"`},
		"unwritable":         {[]string{good}, []string{"-o", "nowhere/out.jsonl"}, "cannot write beside nowhere/out.jsonl"},
		"a folder":           {[]string{good}, []string{"-o", "."}, "it is no regular file"},
		"no config":          {[]string{good}, []string{"--config", "nowhere.yaml"}, "--config: open nowhere.yaml"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if c.lines != nil {
				write(t, dir, "in.jsonl", c.lines...)
			}
			code, stdout, stderr := llmq(t, dir, append([]string{"run", "in.jsonl", "-o", "out.jsonl", "--base-url", srv.URL(), "--quiet"}, c.flags...)...)
			wantCode := 2
			if name == "unwritable" || name == "a folder" {
				wantCode = 5
			}
			if code != wantCode || strings.Count(stderr, "\n") != 1 || !strings.Contains(stderr, c.want) || !strings.HasPrefix(stderr, "llmq: ") || stdout != "" {
				t.Errorf("exit code %d, want %d, and one line with %q in\n%s%s", code, wantCode, c.want, stdout, stderr)
			}
			if strings.Contains(stderr, "sk-secret") {
				t.Errorf("the key is shown: %s", stderr)
			}
		})
	}
	if st := srv.Stats(); st.Accepted+st.Refused+st.Invalid > 0 {
		t.Errorf("something was sent: %+v", st)
	}
}

func TestABadLineByStdinEndsTheRunAndKeepsWhatIsDone(t *testing.T) {
	t.Parallel()
	srv, dir := serve(t, nil), t.TempDir()
	p := command(t, dir, nil, "run", "-", "-o", "out.jsonl", "--base-url", srv.URL(), "--rpm", "1000", "-q")
	p.Stdin = strings.NewReader(strings.Join(chats(20, 10), "\n") + "\n{oops\n")
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	oneLine(t, p.code(), 2, p.stderr.String(), "stdin:21: not valid JSON")
	if got := len(readResults(t, dir, "out.jsonl")); got != int(srv.Stats().Completed) {
		t.Errorf("%d results of %d answers", got, srv.Stats().Completed)
	}
}

// TestTheKeyIsSentAndNeverShown looks for it in everything that llmq prints and writes,
// with a provider that echoes it.
func TestTheKeyIsSentAndNeverShown(t *testing.T) {
	t.Parallel()
	const key = "sk-very-secret-0123456789"
	for name, c := range map[string]struct {
		status int
		code   int
		want   string
	}{
		"wrong key":      {401, 3, "check the key in LLMQ_API_KEY"},
		"forbidden":      {403, 3, "check what the key may do"},
		"wrong address":  {404, 3, "check --base-url"},
		"leads away":     {307, 3, "it leads elsewhere"},
		"echoed failure": {400, 1, ""},
		"echoed answer":  {200, 1, ""}, // an error, whatever the status
	} {
		t.Run(name, func(t *testing.T) {
			got := make(chan string, 10)
			srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				got <- r.Header.Get("Authorization")
				w.Header().Set("Location", "/elsewhere?key="+key)
				w.Header().Set("X-Request-Id", key)
				w.WriteHeader(c.status)
				fmt.Fprintf(w, `{"error":{"message":"Incorrect API key provided: %s."}}`, key)
			}))
			defer srv.Close()
			dir := t.TempDir()
			write(t, dir, "in.jsonl", chats(1, 10)...)
			p := command(t, dir, []string{"LLMQ_API_KEY=" + key}, "run", "in.jsonl", "-o", "out.jsonl", "--base-url", srv.URL, "--json", "--attempts", "1")
			if err := p.Start(); err != nil {
				t.Fatal(err)
			}
			code := p.code()
			if code != c.code || !strings.Contains(p.stderr.String(), c.want) {
				t.Errorf("exit code %d, want %d and %q: %s", code, c.code, c.want, p.stderr.String())
			}
			if auth := <-got; auth != "Bearer "+key {
				t.Errorf("the provider got %q", auth)
			}
			if len(got) > 0 {
				t.Errorf("the key went out %d times more", len(got))
			}
			everything := p.stdout.String() + p.stderr.String()
			_ = filepath.WalkDir(dir, func(path string, d fs.DirEntry, _ error) error {
				if !d.IsDir() {
					data, _ := os.ReadFile(path)
					everything += string(data)
				}
				return nil
			})
			if strings.Contains(everything, key) {
				t.Errorf("the key is shown:\n%s", everything)
			}
		})
	}
	t.Run("from a file, by another header", func(t *testing.T) {
		srv, dir := record(t), t.TempDir()
		write(t, dir, "in.jsonl", chats(1, 10)...)
		write(t, dir, "key", key)
		if code, _, stderr := llmq(t, dir, "run", "in.jsonl", "-o", "out.jsonl", "--base-url", srv.URL, "--key-file", "key", "--auth", "x-api-key", "--header", "X-Team: a"); code != 0 {
			t.Fatalf("exit code %d: %s", code, stderr)
		}
		if h := srv.heads[0]; h.Get("X-Api-Key") != key || h.Get("Anthropic-Version") == "" || h.Get("X-Team") != "a" || h.Get("Authorization") != "" {
			t.Errorf("sent %v", h)
		}
	})
}

func TestADeadHostIsToldSoon(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	_ = l.Close()
	dir := t.TempDir()
	write(t, dir, "in.jsonl", chats(100, 10)...)
	code, _, stderr := llmq(t, dir, "run", "in.jsonl", "-o", "out.jsonl", "--base-url", "http://"+address+"/v1")
	oneLine(t, code, 3, stderr, address+" cannot be reached", "connection refused", "check --base-url and the network")
	if list := readResults(t, dir, "out.jsonl"); len(list) > 0 {
		t.Errorf("%d requests count as failed, though none was sent", len(list))
	}
}

// TestALostNetworkCostsNoRequest: the provider goes away in the middle and comes back.
func TestALostNetworkCostsNoRequest(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	_ = l.Close()
	latency := llmtest.WithLatency(llmtest.Latency{FirstToken: 20 * time.Millisecond})
	first := serve(t, nil, llmtest.ListenOn(address), latency)
	dir := t.TempDir()
	write(t, dir, "in.jsonl", chats(400, 10)...)
	p := command(t, dir, nil, "run", "in.jsonl", "-o", "out.jsonl", "--base-url", first.URL(), "--rpm", "100000", "--concurrency", "4", "--attempts", "3")
	var out syncBuffer
	p.Stderr = &out
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "some are answered", func() bool { return first.Stats().Completed > 20 })
	first.Close()
	eventually(t, "it says so", func() bool { return strings.Contains(out.String(), address+" cannot be reached") })
	second := serve(t, nil, llmtest.ListenOn(address), latency)
	if code := p.code(); code != 0 {
		t.Errorf("exit code %d: %s", code, out.String())
	}
	list := readResults(t, dir, "out.jsonl")
	eachOnce(t, list, 400)
	if failed := failures(list); failed != nil {
		t.Errorf("failed for the network's sake: %v", failed)
	}
	if second.Stats().Completed == 0 {
		t.Error("all was over before the provider went away")
	}
}

const cheap = `m: {input: 1000, output: 1000}` // a tenth of a cent for each token

func TestMoney(t *testing.T) {
	t.Parallel()
	srv := serve(t, nil, llmtest.WithOutputTokens(10, 0))
	dir := t.TempDir()
	write(t, dir, "in.jsonl", chats(50, 10)...)
	write(t, dir, "prices.yaml", cheap)
	args := []string{"run", "in.jsonl", "-o", "out.jsonl", "--base-url", srv.URL(), "--rpm", "10000", "--prices", "prices.yaml", "-q"}
	code, _, stderr := llmq(t, dir, append(args, "--max-cost", "0.5")...)
	oneLine(t, code, 4, stderr, "50 requests may cost up to $", "more than --max-cost 0.50: nothing was sent")
	if srv.Stats().Accepted > 0 {
		t.Error("something was sent")
	}
	code, _, stderr = llmq(t, dir, append(args, "--budget-usd", "0.3")...)
	oneLine(t, code, 4, stderr, "the budget of $0.30 is used up")
	some := len(readResults(t, dir, "out.jsonl"))
	st := srv.Stats()
	if spent := float64(st.InputTokens+st.OutputTokens) / 1000; spent > 0.3 || spent < 0.2 {
		t.Errorf("$%.3f were spent of a budget of 0.30 (%d requests)", spent, some)
	}
	// The next run goes on with the same money, and finds none left.
	code, _, stderr = llmq(t, dir, append(args, "--budget-usd", "0.3")...)
	oneLine(t, code, 4, stderr, "the budget of $0.30 is used up")
	if now := len(readResults(t, dir, "out.jsonl")); now > some+1 {
		t.Errorf("%d requests more ran on a budget that was used up", now-some)
	}
	if code, _, stderr = llmq(t, dir, append(args, "--budget-usd", "10")...); code != 0 {
		t.Errorf("exit code %d: %s", code, stderr)
	}
	eachOnce(t, readResults(t, dir, "out.jsonl"), 50)
	write(t, dir, "prices.yaml", `n: {input: 1, output: 1}`)
	code, _, stderr = llmq(t, dir, append(args[:2:2], append([]string{"-o", "other.jsonl"}, args[4:]...)...)...)
	oneLine(t, code, 2, stderr, `line 1: no price for the model "m"`)
}

func TestAnExhaustedQuotaStopsTheRunOrIsWaitedFor(t *testing.T) {
	t.Parallel()
	quota := llmtest.WithFaultShare(1, llmtest.Fault{Kind: llmtest.FaultQuota})
	t.Run("stops", func(t *testing.T) {
		srv, dir := serve(t, nil, quota), t.TempDir()
		write(t, dir, "in.jsonl", chats(20, 10)...)
		code, _, stderr := llmq(t, dir, "run", "in.jsonl", "-o", "out.jsonl", "--base-url", srv.URL())
		oneLine(t, code, 4, stderr, "quota is used up", "--wait-for-quota")
		if list := readResults(t, dir, "out.jsonl"); len(list) > 0 {
			t.Errorf("%d requests are recorded as failed, though they can run later", len(list))
		}
	})
	t.Run("waits", func(t *testing.T) {
		srv, dir := serve(t, nil, quota), t.TempDir()
		write(t, dir, "in.jsonl", chats(20, 10)...)
		p := command(t, dir, nil, "run", "in.jsonl", "-o", "out.jsonl", "--base-url", srv.URL(), "--wait-for-quota", "--progress-every", "20ms")
		var out syncBuffer
		p.Stderr = &out
		if err := p.Start(); err != nil {
			t.Fatal(err)
		}
		eventually(t, "it says why it waits, and how long", func() bool {
			return strings.Contains(out.String(), "paused 59m") || strings.Contains(out.String(), "paused 1h00m")
		})
		if !strings.Contains(out.String(), "quota_exhausted (insufficient_quota)") {
			t.Errorf("it does not say why: %s", out.String())
		}
		_ = p.Process.Signal(os.Interrupt)
		if code := p.code(); code != 130 {
			t.Errorf("exit code %d: %s", code, out.String())
		}
		if list := readResults(t, dir, "out.jsonl"); len(list) > 0 {
			t.Errorf("%d requests are recorded as failed, though they can run later", len(list))
		}
	})
	t.Run("goes on when it is renewed", func(t *testing.T) {
		if !full {
			t.Skip("waits for the next full minute: set LLMQ_TEST_FULL=1")
		}
		var renewed time.Time
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			if time.Now().Before(renewed) {
				w.WriteHeader(http.StatusBadRequest)
				fmt.Fprintf(w, `{"type":"error","error":{"type":"invalid_request_error","message":"You have reached your specified API usage limits. You will regain access on %s UTC."}}`, renewed.Format("2006-01-02 at 15:04"))
				return
			}
			fmt.Fprint(w, `{"choices":[{"message":{"content":"x"}}]}`)
		}))
		defer srv.Close()
		renewed = time.Now().UTC().Truncate(time.Minute).Add(time.Minute)
		if time.Until(renewed) < 10*time.Second {
			renewed = renewed.Add(time.Minute)
		}
		dir := t.TempDir()
		write(t, dir, "in.jsonl", chats(20, 10)...)
		if code, _, stderr := llmq(t, dir, "run", "in.jsonl", "-o", "out.jsonl", "--base-url", srv.URL, "--wait-for-quota", "--rpm", "1000"); code != 0 {
			t.Errorf("exit code %d: %s", code, stderr)
		}
		list := readResults(t, dir, "out.jsonl")
		eachOnce(t, list, 20)
		if failed := failures(list); failed != nil {
			t.Errorf("failed: %v", failed)
		}
	})
}

func TestTheConfigFileSetsFlagsAndLimitsByModel(t *testing.T) {
	t.Parallel()
	srv, dir := serve(t, nil), t.TempDir()
	write(t, dir, "in.jsonl", chats(3, 10)...)
	write(t, dir, "llmq.yaml", "base-url: "+srv.URL(), "rpm: 10", "header: ['X-A: 1', 'X-B: 2']", "models:", "  m: {rpm: 7, accounting: groq}")
	code, stdout, stderr := llmq(t, dir, "run", "in.jsonl", "-o", "out.jsonl", "--config", "llmq.yaml", "--json")
	if code != 0 || !strings.Contains(stdout, `"limit":"7 rpm"`) {
		t.Errorf("exit code %d, %s%s", code, stdout, stderr)
	}
	for content, want := range map[string]string{
		"rmp: 5":                `unknown setting "rmp"`,
		"rpm: many":             "rpm: ",
		"models: {m: {rmp: 5}}": "models: ",
		"rpm: [":                "llmq.yaml:",
	} {
		write(t, dir, "llmq.yaml", content)
		code, _, stderr := llmq(t, dir, "run", "in.jsonl", "-o", "out.jsonl", "--config", "llmq.yaml")
		oneLine(t, code, 2, stderr, "llmq.yaml", want)
		if strings.Count(stderr, "\n") != 1 {
			t.Errorf("more than a line: %s", stderr)
		}
	}
}
