package journal

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/llmqueue/llmqueue"
)

// used is what the starts of a model come to: how many and how many tokens, in the last
// five minutes and before.
func used(p *Past, model string, now time.Time) (recent, older int, tokens int64, times map[time.Time]int) {
	times = map[time.Time]int{}
	for at, u := range p.Starts(model) {
		times[at]++
		tokens += u.Total()
		if now.Sub(at) < 5*time.Minute {
			recent++
		} else {
			older++
		}
	}
	return recent, older, tokens, times
}

// asBooked takes what was used, or what was reserved by an attempt without an end.
func asBooked(_ string, reserved, used llmqueue.Usage, ended bool) llmqueue.Usage {
	if ended {
		return used
	}
	return reserved
}

// TestTheNextRunKnowsWhatThisOneStarted: those that ended and those that a kill cut off.
func TestTheNextRunKnowsWhatThisOneStarted(t *testing.T) {
	dir := t.TempDir()
	j, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 10 {
		n, err := j.Start(`a "model"`, llmqueue.Usage{InputTokens: 5, OutputTokens: 95})
		if err == nil && i < 6 {
			j.End(n, llmqueue.Usage{InputTokens: 5, OutputTokens: 5})
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := j.Limits(`a "model"`, []llmqueue.Limit{llmqueue.RPM(7)}); err != nil {
		t.Fatal(err)
	}
	// A kill: no Close, and half a line at the end. Then another run, whose numbers begin anew.
	path := filepath.Join(dir, "journal")
	f, _ := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	_, _ = f.WriteString("S 17619")
	_ = f.Close()
	second, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	n, err := second.Start("b", llmqueue.Usage{InputTokens: 1})
	if err != nil || n != 1 {
		t.Fatalf("number %d, %v", n, err)
	}
	second.End(n, llmqueue.Usage{InputTokens: 3})
	n, err = second.Start("c", llmqueue.Usage{InputTokens: 50})
	if err != nil {
		t.Fatal(err)
	}
	second.End(n, llmqueue.Usage{InputTokens: 2})
	now := time.Now()
	p, err := Read(dir, now, Keep, asBooked)
	if err != nil {
		t.Fatal(err)
	}
	if recent, _, tokens, _ := used(p, `a "model"`, now); recent != 10 || tokens != 6*10+4*100 {
		t.Errorf("%d starts with %d tokens, want 10 with 460", recent, tokens)
	}
	if recent, _, tokens, _ := used(p, "c", now); recent != 1 || tokens != 50 {
		t.Errorf("%d starts with %d tokens, want 1 with 50: a kill now would cost its end, so that it counts as one in flight", recent, tokens)
	}
	if err := second.Flush(); err != nil {
		t.Fatal(err)
	}
	if p, err = Read(dir, now, Keep, asBooked); err != nil {
		t.Fatal(err)
	}
	if recent, _, tokens, _ := used(p, "c", now); recent != 1 || tokens != 2 {
		t.Errorf("%d starts with %d tokens, want 1 with 2: its end was flushed", recent, tokens)
	}
	if recent, _, tokens, _ := used(p, "b", now); recent != 1 || tokens != 3 {
		t.Errorf("%d starts with %d tokens of the second run, want 1 with 3", recent, tokens)
	}
	if l := p.Limits(`a "model"`); len(l) != 1 || l[0].Limits[0].String() != "7 rpm" {
		t.Errorf("limits %v, want 7 rpm", l)
	}
}

// TestWhatWasInFlightCountsFromTheKill: it may have arrived as late as that.
func TestWhatWasInFlightCountsFromTheKill(t *testing.T) {
	dir := t.TempDir()
	now := time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)
	path := filepath.Join(dir, "journal")
	data := appendStart(appendStart(nil, now.Add(-9*time.Second), 1), now.Add(-8*time.Second), 2)
	data = append(data, "E 1 4 6 0\n"...)
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(path, now, now.Add(-5*time.Second)); err != nil { // the last thing that was written
		t.Fatal(err)
	}
	p, err := Read(dir, now, Keep, asBooked)
	if err != nil {
		t.Fatal(err)
	}
	_, _, _, times := used(p, "m", now)
	if len(times) != 2 || times[now.Add(-9*time.Second).Local()] != 1 || times[now.Add(-5*time.Second).Local()] != 1 {
		t.Errorf("starts count as of %v, want 9 s and 5 s before %v", times, now)
	}
}

// TestADaysStartsCountBySecondAndNoneIsLost: in little memory, and never too early.
func TestADaysStartsCountBySecondAndNoneIsLost(t *testing.T) {
	dir := t.TempDir()
	const step = 500 * time.Millisecond
	now := time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)
	var data []byte
	count := 0
	for at := now.Add(-26 * time.Hour); at.Before(now); at = at.Add(step) {
		count++
		data = fmt.Appendf(appendStart(data, at, count), "E %d 4 6 0\n", count)
	}
	if err := os.WriteFile(filepath.Join(dir, "journal"), data, 0o600); err != nil {
		t.Fatal(err)
	}
	p, err := Read(dir, now, Keep, asBooked)
	if err != nil {
		t.Fatal(err)
	}
	recent, older, tokens, times := used(p, "m", now)
	wantRecent, wantAll := int(5*time.Minute/step), int(Keep/step)
	if recent < wantRecent-5 || recent > wantRecent+5 || recent+older < wantAll-5 || recent+older > wantAll || tokens != int64(recent+older)*10 {
		t.Errorf("%d recent and %d older starts with %d tokens, want %d and %d with ten each", recent, older, tokens, wantRecent, wantAll-wantRecent)
	}
	if len(times) > 86400/24*25+wantRecent {
		t.Errorf("%d instants: they are not put together", len(times))
	}
	for at := range times {
		if now.Sub(at) > 5*time.Minute && at.Nanosecond() != 0 {
			t.Fatalf("%v is no second's end", at)
		}
	}
}

func appendStart(data []byte, at time.Time, n int) []byte {
	return fmt.Appendf(data, "S %d %d 4 6 \"m\"\n", at.UnixNano(), n)
}

// TestTheJournalDoesNotGrowForEver: what is older than a day goes, the last day stays.
func TestTheJournalDoesNotGrowForEver(t *testing.T) {
	dir := t.TempDir()
	j, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := j.Limits("m", []llmqueue.Limit{llmqueue.RPM(7)}); err != nil {
		t.Fatal(err)
	}
	first, _ := j.Start("m", llmqueue.Usage{InputTokens: 1})
	for range 2 { // as if it had grown for more than a day, twice
		j.size, j.began = rotateAt+1, time.Now().Add(-Keep-time.Minute)
		if _, err := j.Start("m", llmqueue.Usage{InputTokens: 1}); err != nil {
			t.Fatal(err)
		}
		j.End(first, llmqueue.Usage{InputTokens: 100})
	}
	now := time.Now()
	p, err := Read(dir, now, Keep, asBooked)
	if err != nil {
		t.Fatal(err)
	}
	if recent, _, _, _ := used(p, "m", now); recent != 2 {
		t.Errorf("%d starts, want the 2 of the last two files", recent)
	}
	if l := p.Limits("m"); len(l) == 0 || l[len(l)-1].Limits[0].String() != "7 rpm" {
		t.Errorf("the new file does not have the limits: %v", l)
	}
	if files, _ := os.ReadDir(dir); len(files) != 2 {
		t.Errorf("%v, want two files", files)
	}
}
