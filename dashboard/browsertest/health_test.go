package browsertest

import (
	"strings"
	"testing"
	"time"

	"github.com/llmqueue/llmqueue"
	"github.com/llmqueue/llmqueue/dashboard"
)

// inspected is an inspector that says what the test says.
type inspected []llmqueue.QueueInfo

func (i inspected) Models() []string                        { return nil }
func (i inspected) Info(string) (llmqueue.QueueInfo, error) { return llmqueue.QueueInfo{}, nil }
func (i inspected) InfoAll() []llmqueue.QueueInfo           { return i }
func (i inspected) Requests(string, llmqueue.RequestFilter) ([]llmqueue.RequestInfo, error) {
	return nil, nil
}

// Who looks sees which endpoint is held out, why and when it is probed, how calls ended of late
// and how fast output comes; in the overview, that one is held out. No reason becomes part of the
// page.
func TestHealthOfEndpoints(t *testing.T) {
	hostile := `</bdi><img src=x onerror="window.broken=1"><h1>broken</h1>` + "\u202e"
	url := serve(t, dashboard.Handler(inspected{
		{ModelID: "mixed", Hedges: 3, Endpoints: []llmqueue.EndpointInfo{
			{Name: "good", RecentServed: 7, RecentFailures: 1, RecentRefusals: 2, FirstOutput: 1500 * time.Millisecond},
			{Name: "bad", HeldOut: true, HeldOutReason: "401: the key is wrong", NextProbe: time.Now().Add(time.Hour), RecentFaults: 4},
			{Name: "hostile", HeldOut: true, HeldOutReason: hostile, RecentServed: 0.01},
			{Name: "silent", HeldOut: true},
		}},
		{ModelID: "broken", Endpoints: []llmqueue.EndpointInfo{{Name: "broken", Open: true}}},
		{ModelID: "well", Endpoints: []llmqueue.EndpointInfo{{Name: "well"}}},
	}))
	b := newTab(t, 400, 900)
	b.open(url)
	shown := eval[[]string](b, `[...document.querySelectorAll('.endpoint')].map((e) =>
		[...e.querySelectorAll('.state, .health')].filter((p) => p.checkVisibility()).map((p) => p.textContent).join(' | '))`)
	want := []string{
		"Of late: 70% served, 20% refused, 10% failed. First output after 1.5 s.",
		"Held out: 401: the key is wrong, next probe in 60 min | Of late: 0% served, 100% failed by its own fault.",
		"Held out: " + hostile,
		"Held out: calls fail there",
		"Held out: its circuit breaker lets no call through",
		"",
	}
	if strings.Join(shown, "\n") != strings.Join(want, "\n") {
		t.Errorf("the page shows\n%s\nwant\n%s", strings.Join(shown, "\n"), strings.Join(want, "\n"))
	}
	states := eval[[]string](b, `[...document.querySelectorAll('#overview tbody tr')].map((r) => r.children[1].textContent)`)
	if got := strings.Join(states, ", "); got != "held out: 3 of 4 endpoints, held out, idle" {
		t.Errorf("the overview says %q", got)
	}
	if b.text(".hedges") != "3" {
		t.Errorf("%q hedges are shown", b.text(".hedges"))
	}
	if eval[bool](b, `'broken' in window || document.querySelector('.endpoint img, .endpoint h1') !== null`) {
		t.Error("a reason became part of the page")
	}
	if wide := eval[int](b, `document.documentElement.scrollWidth`); wide > 400 {
		t.Errorf("the page is %d px wide", wide)
	}
	b.clean(url)
}
