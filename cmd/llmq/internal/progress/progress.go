// Package progress shows how a run stands: as a bar on a terminal, as lines elsewhere, as
// JSON for machines.
package progress

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"
	"unicode"

	"github.com/mattn/go-runewidth"
	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"

	"github.com/llmqueue/llmqueue/cmd/llmq/internal/batch"
)

// Style is how progress is shown.
type Style int

// The styles.
const (
	None Style = iota
	Bar
	Plain
	JSON
)

// Shower shows runs. Safe for concurrent use.
type Shower struct {
	style Style
	err   io.Writer // for people
	out   io.Writer // for machines
	every time.Duration

	mu  sync.Mutex
	bar *mpb.Progress // while one is shown
}

// New returns a Shower that writes bars and lines to err and JSON to out, every so often.
func New(style Style, err, out io.Writer, every time.Duration) *Shower {
	return &Shower{style: style, err: err, out: out, every: every}
}

// Notice shows a line, above the bar if there is one.
func (p *Shower) Notice(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	text := "llmq: " + fmt.Sprintf(format, args...) + "\n"
	if p.bar != nil {
		if _, err := io.WriteString(p.bar, text); err == nil {
			return
		}
	}
	_, _ = io.WriteString(p.err, text)
}

// Show begins to show a run, until the function that it returns is called.
func (p *Shower) Show(snapshot func() batch.Snapshot) (stop func()) {
	switch p.style {
	case Bar:
		return p.showBar(snapshot)
	case Plain:
		return p.repeat(func() { p.line(Line(snapshot())) })
	case JSON:
		return p.repeat(func() { p.Machine("progress", snapshot()) })
	}
	return func() {}
}

func (p *Shower) line(text string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	fmt.Fprintln(p.err, text)
}

// Machine writes a JSON object of a type on a line, with the fields of v.
func (p *Shower) Machine(kind string, v any) {
	data, err := json.Marshal(v)
	if err != nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	fmt.Fprintf(p.out, "{\"type\":%q,%s\n", kind, data[1:])
}

// repeat calls f now and then, and once more in the end.
func (p *Shower) repeat(f func()) (stop func()) {
	end, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(p.every)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				f()
			case <-end:
				f()
				return
			}
		}
	}()
	return func() {
		close(end)
		<-ended
	}
}

// showBar shows two lines: the bar with counts, and the limits with what holds the run up.
func (p *Shower) showBar(snapshot func() batch.Snapshot) (stop func()) {
	var mu sync.Mutex
	s := snapshot()
	latest := func() batch.Snapshot {
		mu.Lock()
		defer mu.Unlock()
		return s
	}
	progress := mpb.New(mpb.WithOutput(p.err), mpb.WithWidth(100), mpb.WithRefreshRate(p.every), mpb.WithAutoRefresh())
	// A line that is wider than the terminal would take two, and the bar, which counts on
	// one, would leave a copy of itself above with each turn.
	extender := mpb.BarFillerFunc(func(w io.Writer, stat decor.Statistics) error {
		_, err := io.WriteString(w, runewidth.Truncate("  "+Details(latest()), stat.AvailableWidth, "…")+"\n")
		return err
	})
	bar := progress.New(max(s.Total, 1), mpb.BarStyle().Lbound("[").Filler("=").Tip(">").Padding(" ").Rbound("]"),
		mpb.BarExtender(extender, false),
		mpb.AppendDecorators(decor.Any(func(decor.Statistics) string { return " " + Counts(latest()) })))
	bar.SetCurrent(s.Done + s.Failed)
	p.mu.Lock()
	p.bar = progress
	p.mu.Unlock()
	end := p.repeat(func() {
		next := snapshot()
		mu.Lock()
		s = next
		mu.Unlock()
		bar.SetTotal(max(next.Total, next.Done+next.Failed+1), false)
		bar.SetCurrent(next.Done + next.Failed)
	})
	return func() {
		end()
		if last := latest(); last.Total > 0 && last.Done+last.Failed >= last.Total {
			bar.SetTotal(last.Total, true)
		} else {
			bar.Abort(false)
		}
		progress.Wait()
		p.mu.Lock()
		p.bar = nil
		p.mu.Unlock()
	}
}

// Counts is how many requests are done, and when the rest will be.
func Counts(s batch.Snapshot) string {
	done := s.Done + s.Failed
	text := fmt.Sprintf("%s done", number(done))
	if s.Total > 0 {
		text = fmt.Sprintf("%s/%s %d%%", number(done), number(s.Total), 100*done/s.Total)
	}
	if s.Failed > 0 {
		text += fmt.Sprintf(" · %s failed", number(s.Failed))
	}
	switch {
	case s.Stopping == batch.Finished || s.Stopping == "" && s.ETA > 0:
		text += " · ETA " + span(time.Duration(s.ETA*float64(time.Second)))
	case s.Stopping != "":
		text += fmt.Sprintf(" · stopping, %d in flight", s.Running)
	}
	return text
}

// Details is how much of the limits is used, and what holds the run up.
func Details(s batch.Snapshot) string {
	var parts []string
	models := map[string]bool{}
	for _, l := range s.Limits {
		models[l.Model] = true
	}
	tokens := false
	for i, l := range s.Limits {
		if i >= 6 {
			parts = append(parts, "…")
			break
		}
		name := l.Kind
		if strings.HasPrefix(l.Kind, "tpm") || strings.HasPrefix(l.Kind, "itpm") || strings.HasPrefix(l.Kind, "otpm") {
			name, tokens = tokensAMinute[l.Kind], true
		}
		if len(models) > 1 {
			name = l.Model + " " + name
		}
		parts = append(parts, fmt.Sprintf("%s/%s %s", number(l.Used), number(l.Amount), name))
	}
	if !tokens && s.Tokens > 0 {
		parts = append(parts, number(s.Tokens)+" tokens/min")
	}
	parts = append(parts, fmt.Sprintf("%d in flight", s.Running))
	if s.Cost > 0 {
		parts = append(parts, fmt.Sprintf("$%.4f", s.Cost))
	}
	if why := cmp.Or(s.HeldOut, s.Failing); why != "" {
		parts = append(parts, "calls fail: "+plain(why))
	}
	switch wait := s.Until.Sub(s.Time); {
	case s.Paused != "":
		parts = append(parts, fmt.Sprintf("paused %s: %s", span(wait), s.Paused))
	case s.WaitsFor != "" && wait > 0:
		parts = append(parts, fmt.Sprintf("waits %s for %s", span(wait), s.WaitsFor))
	case s.WaitsFor != "":
		parts = append(parts, "waits for "+s.WaitsFor)
	}
	return strings.Join(parts, " · ")
}

var tokensAMinute = map[string]string{"tpm": "tokens/min", "itpm": "input tokens/min", "otpm": "output tokens/min"}

// Line is all of it on one line.
func Line(s batch.Snapshot) string { return Counts(s) + " · " + Details(s) }

// plain makes a provider's text fit for a line of a terminal: without control characters, and
// short.
func plain(text string) string {
	text = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, text)
	if r := []rune(text); len(r) > 80 {
		text = string(r[:80]) + "…"
	}
	return text
}

// number writes thousands apart.
func number(n int64) string {
	text := fmt.Sprint(n)
	for i := len(text) - 3; i > 0 && text[i-1] != '-'; i -= 3 {
		text = text[:i] + "," + text[i:]
	}
	return text
}

// span is a duration as a person says it.
func span(d time.Duration) string {
	switch {
	case d < 0:
		return "0s"
	case d < time.Minute:
		return fmt.Sprintf("%.0fs", d.Seconds())
	case d < time.Hour:
		return fmt.Sprintf("%dm%02ds", int(d.Minutes()), int(d.Seconds())%60)
	}
	return fmt.Sprintf("%dh%02dm", int(d.Hours()), int(d.Minutes())%60)
}
