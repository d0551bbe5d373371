package llmhttp

import (
	"cmp"
	"math"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// maxWait is the longest wait that is believed. A longer one is read as none: it is
// a date in another unit, or nonsense, rather than advice.
const maxWait = 31 * 24 * time.Hour

// ParseDelay reads how long a failure asks to wait before the next call: from 0,
// which means that it does not say, to 31 days. Of the places that may say it the first
// counts:
//
//   - the header Retry-After-Ms, in milliseconds
//   - the header Retry-After: seconds, with or without a fraction, or a date
//   - the longest of the headers that have its name in theirs, as Kong's gateway has
//   - Gemini's RetryInfo in the body, and members such as retry_after and resets_at
//   - words such as "try again in 1m3.5s" or "resets at 2026-02-01 10:00:00" in the body's
//     message
//   - the reset of a rate limit of which the headers do not say that some of it is left, of
//     Anthropic's unified limits that of those which were exceeded
//
// now is when the answer arrived.
func ParseDelay(h http.Header, body []byte, now time.Time) time.Duration {
	e := parseAPIError(body)
	f := evidence{e: e, status: http.StatusTooManyRequests, header: e.handedOn(h), sentence: e.sentence()}
	f.of = recognize(origin{header: h}, &f)
	if d := f.delay(now); d > 0 {
		return d
	}
	return resetDelay(f.header, now)
}

// delay is ParseDelay without the resets.
func (f *evidence) delay(now time.Time) time.Duration {
	if ms, ok := number(f.header.Get("Retry-After-Ms")); ok {
		if d := seconds(ms / 1000); d > 0 {
			return d
		}
	}
	if d, _ := wait(f.header.Get("Retry-After"), answered(f.header, now)); d > 0 {
		return d
	}
	var d time.Duration
	for name, values := range f.header { // of gateways, such as Kong's X-AI-RateLimit-Retry-After-minute-openai
		if strings.Contains(name, "-Retry-After") && !strings.HasSuffix(name, "-Ms") {
			after, _ := wait(nth(values, 0), answered(f.header, now))
			d = max(d, after)
		}
	}
	return cmp.Or(d, f.bodyDelay(now))
}

// bodyDelay is what the body says of a wait.
func (f *evidence) bodyDelay(now time.Time) time.Duration {
	for e := f.e; e != nil; e = e.upstream {
		if d := e.ownDelay(now); d > 0 {
			return d
		}
	}
	if d := textDelay(f.sentence); d > 0 {
		return d
	}
	return f.textDate(now)
}

// ownDelay is what a member of an error says of a wait.
func (e *apiError) ownDelay(now time.Time) time.Duration {
	if e.wait == "" {
		return 0
	}
	if n, ok := number(e.wait); ok && e.waitUnit == waitMillis {
		return seconds(n / 1000)
	}
	d, _ := wait(e.wait, now)
	return d
}

// renewal is how long an exhausted quota stays so, if that is known. Advice to wait for a short
// while does not count: a daily quota has carried a delay of seconds.
func (f *evidence) renewal(now time.Time) time.Duration {
	if f.e.perDay() {
		return untilPacificMidnight(now)
	}
	if d := f.bodyDelay(now); d > shortest {
		return d
	}
	if d, _ := wait(f.header.Get("Retry-After"), answered(f.header, now)); d > shortest {
		return d
	}
	return unifiedDelay(f.header, now)
}

// shortest is what an exhausted quota is believed to take at least.
const shortest = time.Minute

// resetDelay waits for the limits that are used up.
func resetDelay(h http.Header, now time.Time) time.Duration {
	now = answered(h, now)
	if d := unifiedDelay(h, now); d > 0 {
		return d
	}
	var d time.Duration
	for _, l := range draftLimits(h, now) {
		if l.Remaining <= 0 {
			d = max(d, l.Reset)
		}
	}
	var fs families
	fs.read(h)
	for i := range fs.n {
		f := &fs.all[i]
		for j := range f.reset {
			reset, _ := wait(f.reset[j], now)
			left, ok := number(nth(f.remaining, j))
			// Together's bare reset suggests when to try again, whatever is left.
			if suggested := f.kind == "" && reset <= time.Minute; !ok || left == 0 || suggested {
				d = max(d, reset)
			}
		}
	}
	return d
}

// unifiedDelay is the wait for the limits of a subscription of Anthropic's that a call
// exceeded. Only their resets are known, not their amounts. The source is reports of the
// headers, as in github.com/anthropics/claude-code/issues.
func unifiedDelay(h http.Header, now time.Time) time.Duration {
	const prefix = "Anthropic-Ratelimit-Unified-"
	if h.Get(prefix+"Status") != "rejected" {
		return 0
	}
	var d time.Duration
	for name := range h {
		window, ok := strings.CutSuffix(strings.TrimPrefix(name, prefix), "-Status")
		if ok && window != "Overage" && h.Get(name) == "rejected" {
			reset, _ := wait(h.Get(prefix+window+"-Reset"), now)
			d = max(d, reset)
		}
	}
	for _, name := range []string{"Reset", "Overage-Reset"} { // what is beyond a plan is renewed later
		if d == 0 {
			d, _ = wait(h.Get(prefix+name), now)
		}
	}
	return d
}

// untilPacificMidnight is how long a daily quota of Gemini's stays used up.
func untilPacificMidnight(now time.Time) time.Duration {
	pacific, err := time.LoadLocation("America/Los_Angeles")
	if err != nil {
		pacific = time.FixedZone("PST", -8*60*60) // without zone data: in summer an hour too late
	}
	y, m, d := now.In(pacific).Date()
	return time.Date(y, m, d+1, 0, 0, 0, 0, pacific).Sub(now)
}

// answered is the time at which dates in an answer are to be seen: now, or when the
// clocks differ, that of the server.
func answered(h http.Header, now time.Time) time.Time {
	date, err := http.ParseTime(h.Get("Date"))
	if err == nil && now.Sub(date).Abs() > 2*time.Second {
		return date
	}
	return now
}

// secondsSince1970 is above any wait and below any date of this century.
const secondsSince1970 = 9e8

// wait reads a wait in any form: a number (seconds, or since 1970 in seconds or
// milliseconds), a duration, RFC 3339, an HTTP date. What lies in the past or further
// off than maxWait is 0. dated tells that it named a time, not a wait.
func wait(s string, now time.Time) (d time.Duration, dated bool) {
	if s = strings.TrimSpace(s); s == "" {
		return 0, false
	}
	if n, ok := number(s); ok {
		switch {
		case n > 1e12:
			return sane(time.UnixMilli(int64(n)).Sub(now)), true
		case n > secondsSince1970:
			return sane(time.Unix(int64(n), 0).Sub(now)), true
		}
		return seconds(n), false
	}
	if d, err := time.ParseDuration(s); err == nil {
		return sane(d), false
	}
	at, err := time.Parse(time.RFC3339, s)
	if err != nil {
		at, err = http.ParseTime(s)
	}
	if err != nil {
		return 0, false
	}
	return sane(at.Sub(now)), true
}

func sane(d time.Duration) time.Duration {
	if d < 0 || d > maxWait {
		return 0
	}
	return d
}

// seconds is n seconds if that is a sane wait.
func seconds(n float64) time.Duration {
	if n < 0 || n > maxWait.Seconds() {
		return 0
	}
	return time.Duration(math.Round(n * float64(time.Second)))
}

// number reads digits, perhaps with a fraction: not the other notations that
// strconv takes.
func number(s string) (float64, bool) {
	s = strings.TrimSpace(s)
	if s == "" || strings.Trim(s, "0123456789.") != "" {
		return 0, false
	}
	n, err := strconv.ParseFloat(s, 64)
	return n, err == nil
}

const unit = `\d+(?:\.\d+)?\s*(?:milliseconds?|ms|seconds?|secs?|s|minutes?|mins?|m|hours?|hrs?|h|days?|d|秒|分钟|小时|天)`

var (
	askedTo = sentence(`\b(?:(?:try(?:ing)?|retry(?:ing)?|available|accessible)(?: again)?|(?:will )?(?:be )?(?:reset|renew|refresh|resume|replenish)(?:s|ed)?|wait(?: for)?|cool(?:ing)? ?down)(?: (?:at least|about|for|approximately))?(?: (?:in|after|for))?:?\s+~?((?:`+unit+`(?:\s*(?:,|and)?\s*))+)`,
		`\b(?:retry|reset)[_ ]?(?:after|in|delay)["':= ]+((?:`+unit+`\s*)+)`, `((?:`+unit+`)+)\s*(?:后|之后)[^。]{0,6}(?:重试|再试|恢复|重置)`)
	clock = sentence(`\b(?:in|after) (\d\d):(\d\d):(\d\d)\b`) // Azure API Management

	// A letter that follows a unit makes another word of it: 5 parsecs are no 5 p.
	oneUnit = regexp.MustCompile(`(\d+(?:\.\d+)?)\s*([a-z]+|秒|分钟|小时|天)`)
	ofUnit  = map[string]time.Duration{"s": time.Second, "m": time.Minute, "h": time.Hour, "d": 24 * time.Hour, "秒": time.Second, "分钟": time.Minute, "小时": time.Hour, "天": 24 * time.Hour}

	// dated finds a date that something is renewed at.
	dated = sentence(`\b(?:reset|renew|refresh|regain|available|again|resume|(?:re)?try|until|expires?)\w*\b[^.。]*?\b(?:at|on|after|until|:)?\s*(\d{4}-\d{2}-\d{2})[t ](?:at )?(\d{2}:\d{2}(?::\d{2})?)(?:\.\d+)?\s*(z|utc|gmt|[+-]\d{2}:?\d{2})?`,
		`(\d{4}-\d{2}-\d{2})[t ](\d{2}:\d{2}(?::\d{2})?)\s*(z|utc|[+-]\d{2}:?\d{2})?\s*(?:后|之后|时)?[^。]{0,4}(?:重置|恢复|重试|刷新)`)
)

// textDate finds the wait until a date in a failure's sentence.
func (f *evidence) textDate(now time.Time) time.Duration {
	m := dated.compile().FindStringSubmatch(f.sentence)
	if m == nil {
		return 0
	}
	if m[1] == "" {
		m = m[3:]
	}
	zone := time.UTC
	if f.of != nil && f.of.zone != nil {
		zone = f.of.zone
	}
	layout := "2006-01-02 15:04:05"[:len(m[1])+1+len(m[2])]
	at, err := time.ParseInLocation(layout, m[1]+" "+m[2], zone)
	if z := m[3]; err == nil && z != "" {
		offset, _ := time.Parse("-0700", strings.ReplaceAll(z, ":", ""))
		at, err = time.ParseInLocation(layout, m[1]+" "+m[2], offset.Location())
	}
	if err != nil {
		return 0
	}
	return sane(at.Sub(now))
}

// textDelay finds advice such as "Please try again in 1m3.5s." in a message.
func textDelay(message string) time.Duration {
	if m := clock.compile().FindStringSubmatch(message); m != nil {
		d, _ := time.ParseDuration(m[1] + "h" + m[2] + "m" + m[3] + "s")
		return sane(d)
	}
	m := askedTo.compile().FindStringSubmatch(message)
	if m == nil {
		return 0
	}
	var sum float64
	for _, part := range oneUnit.FindAllStringSubmatch(cmp.Or(m[1:]...), -1) {
		n, err := strconv.ParseFloat(part[1], 64)
		if err != nil {
			return 0
		}
		u, ok := ofUnit[part[2]]
		if !ok {
			u = ofUnit[part[2][:1]]
		}
		if strings.HasPrefix(part[2], "ms") || strings.HasPrefix(part[2], "milli") {
			u = time.Millisecond
		}
		sum += n * u.Seconds()
	}
	return seconds(sum)
}
