package browsertest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"

	"github.com/llmqueue/llmqueue"
	"github.com/llmqueue/llmqueue/dashboard"
	"github.com/llmqueue/llmqueue/llmhttp"
	"github.com/llmqueue/llmqueue/llmtest"
)

type (
	manager = llmqueue.Manager[string, string]
	request = llmqueue.Request[string]
)

// newManager has no models yet and gives up what still waits at the end of the test.
func newManager(t *testing.T, opts ...llmqueue.Option) *manager {
	m := llmqueue.NewManager[string, string](opts...)
	t.Cleanup(func() {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		m.Shutdown(ctx)
	})
	return m
}

func register(t *testing.T, m *manager, model string, process llmqueue.Processor[string, string], opts ...llmqueue.Option) *llmqueue.Queue[string, string] {
	t.Helper()
	q, err := m.Register(model, process, opts...)
	if err != nil {
		t.Fatal(err)
	}
	return q
}

func post(t *testing.T, m *manager, req request) {
	t.Helper()
	req.NoWait = true
	if _, err := m.Submit(context.Background(), req); err != nil {
		t.Error(err)
	}
}

// hang runs until it is canceled.
func hang(ctx context.Context, _ request) (string, error) {
	<-ctx.Done()
	return "", context.Cause(ctx)
}

// provider is a queue's processor that asks a simulator of a provider, which answers
// in its own time and at times fails.
func provider(t *testing.T, limits ...llmtest.Limit) llmqueue.Processor[string, string] {
	srv := llmtest.NewServer(t, llmtest.OpenAI(limits...), llmtest.WithSeed(1),
		llmtest.WithOutputTokens(30, 0.5), llmtest.WithLatency(llmtest.TypicalLatency().Scaled(0.1)),
		llmtest.WithFaultShare(0.05, llmtest.Fault{Status: 400}))
	client := *srv.Client()
	client.Transport = llmhttp.NewTransport(client.Transport)
	return func(ctx context.Context, req request) (string, error) {
		body := fmt.Sprintf(`{"model":%q,"messages":[{"role":"user","content":%q}],"max_completion_tokens":60}`, req.ModelID, req.Params)
		return ask(ctx, &client, srv.URL()+"/chat/completions", body)
	}
}

// shown are the figures of a model on the page, by their class.
func (b *tab) shown(model string) map[string]int64 {
	b.t.Helper()
	texts := eval[map[string]string](b, fmt.Sprintf(`(() => {
		const node = [...document.querySelectorAll('.model')].find((m) => m.querySelector('h2 bdi').textContent === %s);
		const all = {};
		for (const dd of node.querySelectorAll('.counts dd')) all[dd.className] = dd.textContent;
		for (const g of node.querySelectorAll('.gauges li')) {
			const [name, used] = g.querySelectorAll('.name > *');
			all[name.textContent + ' used'] = used.textContent;
			all[name.textContent + ' available'] = g.querySelector('.available').textContent;
		}
		return all;
	})()`, quote(model)))
	figures := map[string]int64{}
	for name, s := range texts {
		n, err := strconv.ParseInt(strings.ReplaceAll(strings.Fields(s)[0], ",", ""), 10, 64)
		if err != nil {
			b.t.Errorf("%s is shown as %q", name, s)
		}
		figures[name] = n
	}
	return figures
}

// told are the same figures as Info tells them.
func told(i llmqueue.QueueInfo) map[string]int64 {
	figures := map[string]int64{
		"pending": int64(i.Pending), "processing": int64(i.Processing), "slots": i.Slots,
		"completed": i.Completed, "failed": i.Failed, "canceled": i.Canceled, "retries": i.Retries,
		"input": i.Usage.InputTokens, "output": i.Usage.OutputTokens,
		"hedges": i.Hedges, "abandoned": int64(i.Abandoned), "dropped": i.Dropped,
	}
	for _, l := range i.Limits {
		figures[l.Limit.String()+" used"] = l.Used
		figures[l.Limit.String()+" available"] = l.Available
	}
	return figures
}

func equal(a, b map[string]int64) bool { return fmt.Sprint(a) == fmt.Sprint(b) }

// The page's figures are those of Info: while a load runs, each lies between what Info
// told before and after; at rest they are the same.
func TestFiguresEqualInfo(t *testing.T) {
	m := newManager(t)
	limits := []llmqueue.Option{llmqueue.WithLimits(llmqueue.RPM(240), llmqueue.TPM(40_000), llmqueue.RPD(5000), llmqueue.Concurrent(6))}
	ask := provider(t)
	for _, model := range []string{"large", "small"} {
		register(t, m, model, ask, limits...)
	}
	url := serve(t, dashboard.Handler(m))
	b := newTab(t, 1280, 900)
	b.open(url)

	stop := make(chan struct{})
	var load sync.WaitGroup
	for _, model := range m.Models() {
		load.Go(func() {
			for i := 0; ; i++ {
				post(t, m, request{ModelID: model, Params: "question " + strconv.Itoa(i), Tenant: "tenant " + strconv.Itoa(i%3), Priority: i % 2})
				select {
				case <-stop:
					return
				case <-time.After(40 * time.Millisecond):
				}
			}
		})
	}
	b.until("an answer has come and a request waits", `+document.querySelector('.completed').textContent > 0 && +document.querySelector('.pending').textContent.replace(',', '') > 0`)
	for range 3 {
		before, _ := m.Info("large")
		b.snapshots(2) // the second was begun after before
		page := b.shown("large")
		after, _ := m.Info("large")
		for _, name := range []string{"completed", "failed", "canceled", "retries", "input", "output"} {
			if low, high := told(before)[name], told(after)[name]; page[name] < low || page[name] > high {
				t.Errorf("%s is shown as %d, but was %d before and %d after", name, page[name], low, high)
			}
		}
	}
	close(stop)
	load.Wait()
	for _, model := range m.Models() {
		if err := m.Pause(model); err != nil {
			t.Fatal(err)
		}
	}
	for _, model := range m.Models() {
		var page, info map[string]int64
		for deadline := time.Now().Add(patience / 2); time.Now().Before(deadline); {
			b.snapshots(1)
			i, _ := m.Info(model)
			page, info = b.shown(model), told(i)
			if i.Processing == 0 && equal(page, info) {
				break
			}
		}
		if !equal(page, info) {
			t.Errorf("%s at rest: the page shows\n%v\nand Info tells\n%v", model, page, info)
		}
		if page["completed"] == 0 || page["pending"] == 0 || page["240 rpm used"] == 0 {
			t.Errorf("%s: nothing happened: %v", model, page)
		}
	}
	if b.text(".chart canvas") != "" || eval[int](b, `document.querySelectorAll('.chart canvas').length`) != 2 {
		t.Error("not every model has a chart")
	}
	b.clean(url)
}

// Pause, by keyboard alone, stops starts; Resume starts them again.
func TestPauseStopsStarts(t *testing.T) {
	m := newManager(t)
	var started atomic.Int64
	register(t, m, "m", func(context.Context, request) (string, error) {
		started.Add(1)
		return "", nil
	}, llmqueue.WithLimits(llmqueue.RPM(20).Per(time.Second)))
	for range 2000 {
		post(t, m, request{ModelID: "m"})
	}
	url := serve(t, dashboard.Handler(m).WithControls(m))
	b := newTab(t, 1280, 900)
	b.open(url)

	press := func(button string) {
		t.Helper()
		for range 40 { // far enough, if Tab gets there at all
			if eval[bool](b, `document.activeElement.matches(`+quote(button)+`)`) {
				b.run(chromedp.KeyEvent(kb.Enter))
				return
			}
			b.run(chromedp.KeyEvent(kb.Tab))
		}
		t.Fatalf("Tab does not reach %s", button)
	}
	press(".pause")
	b.until("it shows that it is paused", `document.querySelector('.badges').textContent === 'paused'`)
	if !eval[bool](b, `document.activeElement.matches('.pause')`) {
		t.Error("the button lost the focus")
	}
	i, _ := m.Info("m")
	at := started.Load()
	b.snapshots(3)
	if !i.Paused || started.Load() != at {
		t.Errorf("paused is %v, and %d started since", i.Paused, started.Load()-at)
	}
	if s := b.text(".waiting tbody td:nth-child(4)"); s != "on resume" {
		t.Errorf("a waiting request starts %q", s)
	}
	press(".resume")
	b.until("it runs again", `document.querySelector('.badges').textContent === 'running'`)
	b.snapshots(2)
	if started.Load() == at {
		t.Error("nothing started after Resume")
	}
	b.clean(url)
}

// Cancel ends a request that runs and one that waits, once it was confirmed.
func TestCancelEndsARequest(t *testing.T) {
	m := newManager(t)
	register(t, m, "m", hang, llmqueue.WithLimits(llmqueue.Concurrent(1)))
	for _, id := range []string{"runs", "waits", "stays"} {
		post(t, m, request{ModelID: "m", ID: id})
	}
	url := serve(t, dashboard.Handler(m).WithControls(m))
	b := newTab(t, 1280, 900)
	b.open(url)

	cancel := func(id string) {
		b.run(chromedp.Click(chromedp.CSS(`button[aria-label="Cancel request ` + id + `"]`)))
		b.until("it asks", `document.querySelector('#confirm').open`)
		if asked := b.text("#confirm .id"); asked != id {
			t.Errorf("it asks about %q", asked)
		}
	}
	cancel("waits")
	b.run(chromedp.KeyEvent(kb.Escape))
	b.until("the question is gone", `!document.querySelector('#confirm').open`)
	b.snapshots(1)
	if resp, _ := m.Status("m", "waits"); resp.Status != llmqueue.StatusPending {
		t.Errorf("not confirmed, and yet it is %s", resp.Status)
	}
	for i, id := range []string{"waits", "runs"} {
		cancel(id)
		b.run(chromedp.Click(chromedp.CSS("#confirm .danger")))
		b.until("it shows that it was canceled", fmt.Sprintf(`document.querySelector('.canceled').textContent === '%d'`, i+1))
		resp, err := m.Status("m", id)
		if err != nil || resp.Status != llmqueue.StatusCanceled || !errors.Is(resp.Err, llmqueue.ErrCanceled) {
			t.Errorf("%s is %s: %v, %v", id, resp.Status, resp.Err, err)
		}
	}
	b.until("the next one runs", `document.querySelector('.running .id')?.textContent === 'stays'`)
	b.clean(url)
}

// With 10,000 waiting the page lists a bounded number, answers the keyboard between
// any two updates, and leaves most of the time to others.
func TestManyWaitingStayFluid(t *testing.T) {
	m := newManager(t)
	register(t, m, "m", func(context.Context, request) (string, error) { return "", nil },
		llmqueue.WithLimits(llmqueue.RPM(50).Per(time.Second)))
	for i := range 10_600 {
		post(t, m, request{ModelID: "m", Tenant: "tenant " + strconv.Itoa(i%7)})
	}
	url := serve(t, dashboard.Handler(m).WithControls(m))
	b := newTab(t, 1280, 900)
	b.open(url)
	if n := b.shown("m")["pending"]; n < 10_000 {
		t.Fatalf("only %d wait", n)
	}

	const updates = 6
	eval[bool](b, `(() => {
		const seen = window.seen = {tasks: [], gaps: [], keys: [], from: performance.now()};
		new PerformanceObserver((list) => { for (const e of list.getEntries()) seen.tasks.push(e.duration); }).observe({type: 'longtask'});
		let last = performance.now();
		(function frame(now) { seen.gaps.push(now - last); last = now; requestAnimationFrame(frame); })(last);
		addEventListener('keydown', () => seen.keys.push(document.documentElement.dataset.drawn));
		return true;
	})()`)
	pressed := 0
	for range updates {
		drawn := eval[string](b, `document.documentElement.dataset.drawn`)
		for eval[string](b, `document.documentElement.dataset.drawn`) == drawn {
			b.run(chromedp.KeyEvent(kb.Tab))
			pressed++
		}
	}
	seen := eval[struct {
		Tasks, Gaps []float64
		Keys        []string
		Took        float64
	}](b, `({tasks: seen.tasks, gaps: seen.gaps, keys: seen.keys, took: performance.now() - seen.from})`)

	var busy, longest, gap float64
	for _, d := range seen.Tasks {
		busy, longest = busy+d, max(longest, d)
	}
	for _, d := range seen.Gaps {
		gap = max(gap, d)
	}
	between := map[string]bool{}
	for _, drawn := range seen.Keys {
		between[drawn] = true
	}
	t.Logf("in %.1f s: %d frames, the longest gap %.0f ms; %d tasks above 50 ms, the longest %.0f ms; %d of %d keys answered",
		seen.Took/1000, len(seen.Gaps), gap, len(seen.Tasks), longest, len(seen.Keys), pressed)
	if len(seen.Keys) != pressed || len(between) < updates {
		t.Errorf("%d of %d keys were answered, between %d of %d updates", len(seen.Keys), pressed, len(between), updates)
	}
	if busy > seen.Took/2 {
		t.Errorf("the page was busy in long tasks for %.0f of %.0f ms", busy, seen.Took)
	}
	if rows := eval[int](b, `document.querySelectorAll('tr').length`); rows > 450 {
		t.Errorf("the document has %d rows", rows)
	}
	if rows := eval[int](b, `document.querySelectorAll('.waiting tbody tr').length`); rows != 200 {
		t.Errorf("%d waiting requests are listed", rows)
	}
	if s := eval[string](b, `document.querySelector('.waiting').parentElement.querySelector('.count').textContent`); !strings.HasSuffix(s, ", the first 200 shown") {
		t.Errorf("the heading says %q", s)
	}
	b.clean(url)
}

// Nothing that comes from outside becomes part of the page, whatever it contains.
func TestHostileText(t *testing.T) {
	hostile := []string{
		`<img src=x onerror="window.broken=1">`, `"><script>window.broken=1</script>`, `</bdi></td><h1>broken</h1>`,
		`javascript:window.broken=1`, `' onclick='window.broken=1`, "\u202etxt.exe", "{{7*7}}${7*7}", "line\nbreak\x00\x1b[31m",
		strings.Repeat("endless", 60), "&lt;b&gt;&amp;", "__proto__", "#confirm",
	}
	m := newManager(t)
	for _, s := range hostile[:4] {
		register(t, m, s, func(ctx context.Context, r request) (string, error) {
			if r.Params != "" {
				return "", errors.New(r.Params)
			}
			return hang(ctx, r)
		}, llmqueue.WithLimits(llmqueue.Concurrent(int64(len(hostile)))))
		for _, h := range hostile {
			post(t, m, request{ModelID: s, ID: "failed " + h, Tenant: h, Params: h})
		}
		for _, h := range hostile {
			if resp, _ := m.Wait(t.Context(), s, "failed "+h); resp.Status != llmqueue.StatusFailed {
				t.Fatalf("%q is %s", h, resp.Status)
			}
		}
		for _, prefix := range []string{"", "waiting "} {
			for _, h := range hostile {
				post(t, m, request{ModelID: s, ID: prefix + h, Tenant: h})
			}
		}
	}
	page := dashboard.Handler(m).WithControls(m).WithFormatter(func(_ context.Context, _ llmqueue.Inspector, _, id string) string {
		return "formatted " + id
	})
	url := serve(t, page)
	b := newTab(t, 400, 900)
	b.open(url)
	b.snapshots(2)

	if eval[bool](b, `'broken' in window`) {
		t.Error("a script from outside ran")
	}
	if n := eval[int](b, `document.querySelectorAll('main img, main script, main h1, main a:not(#overview a), [onerror], [onclick]').length`); n > 0 {
		t.Errorf("%d elements came from outside", n)
	}
	texts := func(selector string) map[string]bool {
		all := map[string]bool{}
		for _, s := range eval[[]string](b, `[...document.querySelectorAll(`+quote(selector)+`)].map((e) => e.textContent)`) {
			all[s] = true
		}
		return all
	}
	ids, tenants, failed := texts(".running .id"), texts(".running .more"), texts(".failures .error")
	for _, h := range hostile {
		if !ids[h] {
			t.Errorf("the id %q is not shown as it is", h)
		}
		if !tenants[h] {
			t.Errorf("the tenant %q is not shown as it is", h)
		}
		found := false
		for s := range failed {
			found = found || strings.HasSuffix(s, h)
		}
		if !found {
			t.Errorf("the error %q is not shown as it is", h)
		}
	}
	for _, s := range hostile[:4] {
		if !texts("h2 bdi")[s] || !texts("#overview a")[s] {
			t.Errorf("the model %q is not shown as it is", s)
		}
	}
	if wide := eval[int](b, `document.documentElement.scrollWidth`); wide > 400 {
		t.Errorf("the page is %d px wide", wide)
	}
	for _, h := range hostile {
		button := `[...document.querySelectorAll('.running button')].find((b) => b.ariaLabel === ` + quote("Show request "+h) + `)`
		eval[bool](b, button+`.click(), true`)
		b.until("what the formatter says is shown", `document.querySelector('#detail pre').textContent === `+quote("formatted "+h))
		b.run(chromedp.KeyEvent(kb.Escape))
		b.until("the dialog is closed", `!document.querySelector('#detail').open`)
	}
	// A button on a hostile request does what it says.
	eval[bool](b, `[...document.querySelectorAll('.running button')].find((b) => b.ariaLabel === `+quote("Cancel request "+hostile[0])+`).click(), true`)
	b.run(chromedp.Click(chromedp.CSS("#confirm .danger")))
	b.until("it is canceled", `document.querySelector('.canceled').textContent === '1'`)
	if resp, err := m.Status(m.Models()[0], hostile[0]); err != nil || resp.Status != llmqueue.StatusCanceled {
		t.Errorf("it is %s: %v", resp.Status, err)
	}
	b.clean(url)
}

// The page finds the program again after a restart, shows what is there now, and its
// buttons work with the new program's token.
func TestReconnectsAfterARestart(t *testing.T) {
	first := newManager(t)
	register(t, first, "before", hang, llmqueue.WithUnlimited())
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := listener.Addr().String()
	stop := serveOn(listener, dashboard.Handler(first).WithControls(first))
	b := newTab(t, 1280, 900)
	b.open("http://" + addr + "/debug/llmqueue/")
	stop()
	b.until("it says that it lost the program", `document.querySelector('#status').textContent === 'reconnecting'`)

	second := newManager(t)
	register(t, second, "after", hang, llmqueue.WithUnlimited())
	if listener, err = net.Listen("tcp", addr); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(serveOn(listener, dashboard.Handler(second).WithControls(second)))
	b.until("it is live again", `document.querySelector('#status').textContent === 'live'`)
	b.until("it shows the new program's model and no other", `document.querySelectorAll('.model').length === 1 && document.querySelector('h2 bdi').textContent === 'after'`)
	b.run(chromedp.Click(chromedp.CSS(".pause")))
	b.until("it is paused", `document.querySelector('.badges').textContent === 'paused'`)
	if i, _ := second.Info("after"); !i.Paused {
		t.Error("the page shows a pause that is none")
	}
}

// The page is light or dark as its user prefers, and fits a narrow screen with the
// buttons in reach.
func TestLightDarkAndNarrow(t *testing.T) {
	m := newManager(t)
	for _, model := range []string{"one", "two"} {
		register(t, m, model, hang, llmqueue.WithLimits(llmqueue.Concurrent(3), llmqueue.RPM(500), llmqueue.TPM(1_000_000)))
		for i := range 9 {
			post(t, m, request{ModelID: model, ID: strings.Repeat("long-id-", 8) + strconv.Itoa(i), Tenant: "a tenant of some length", Priority: i % 3})
		}
	}
	url := serve(t, dashboard.Handler(m).WithControls(m))
	b := newTab(t, 400, 900)
	b.run(scheme("light"))
	b.open(url)
	// brightness of an element's color, 0 to 255
	brightness := func(selector, property string) int {
		return eval[int](b, fmt.Sprintf(`Math.round(getComputedStyle(document.querySelector('%s')).%s.match(/[0-9]+/g).slice(0, 3).reduce((a, n) => a + +n / 3, 0))`, selector, property))
	}
	for _, s := range []struct {
		name string
		dark bool
	}{{"light", false}, {"dark", true}} {
		b.run(scheme(s.name))
		back, text := brightness("body", "backgroundColor"), brightness("body", "color")
		if s.dark != (back < 60) || s.dark != (text > 200) {
			t.Errorf("%s: the background has brightness %d and the text %d", s.name, back, text)
		}
	}
	for _, width := range []int64{400, 320, 1280} {
		b.run(chromedp.EmulateViewport(width, 900))
		b.snapshots(1)
		if wide := eval[int64](b, `document.documentElement.scrollWidth`); wide > width {
			t.Errorf("on %d px the page is %d px wide", width, wide)
		}
		if hidden := eval[[]string](b, `[...document.querySelectorAll('main button')].filter((b) => {
			const r = b.getBoundingClientRect();
			return r.left < 0 || r.right > innerWidth || r.width < 20;
		}).map((b) => b.ariaLabel)`); len(hidden) > 0 {
			t.Errorf("on %d px these buttons are out of reach: %v", width, hidden)
		}
		if nameless := eval[int](b, `[...document.querySelectorAll('button')].filter((b) => !(b.ariaLabel || b.textContent).trim()).length`); nameless > 0 {
			t.Errorf("%d buttons have no name", nameless)
		}
	}
	b.clean(url)
}

// Without an option there is no button, and no text of params or results.
func TestNothingMoreThanAsked(t *testing.T) {
	m := newManager(t)
	register(t, m, "m", func(_ context.Context, r request) (string, error) {
		if r.ID == "fails" {
			return "", errors.New("failed")
		}
		return "secret result", nil
	}, llmqueue.WithLimits(llmqueue.Concurrent(1)))
	register(t, m, "n", hang, llmqueue.WithLimits(llmqueue.Concurrent(1)))
	post(t, m, request{ModelID: "m", Params: "secret params"})
	post(t, m, request{ModelID: "m", ID: "fails", Params: "secret params"})
	post(t, m, request{ModelID: "n", Params: "secret params"})
	post(t, m, request{ModelID: "n", Params: "secret params"})
	url := serve(t, dashboard.Handler(m))
	b := newTab(t, 1280, 900)
	b.open(url)
	b.until("the failure is shown", `document.querySelector('.failures .error') !== null`)
	if n := eval[int](b, `[...document.querySelectorAll('main button')].filter((b) => b.checkVisibility()).length`); n > 0 {
		t.Errorf("%d buttons are shown", n)
	}
	all, _ := json.Marshal(eval[string](b, `document.documentElement.outerHTML`))
	if strings.Contains(string(all), "secret") {
		t.Error("params or results are on the page")
	}
	b.clean(url)
}
