package llmhttp

import (
	"math"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/llmqueue/llmqueue"
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
//   - Gemini's RetryInfo in the body
//   - words such as "try again in 1m3.5s" in the body's message
//   - the reset of a rate limit that the headers show as used up
//
// now is when the answer arrived.
func ParseDelay(h http.Header, body []byte, now time.Time) time.Duration {
	e := parseAPIError(body)
	if d := e.delay(h, now); d > 0 {
		return d
	}
	return resetDelay(h, e.limits(h, now), now)
}

// delay is ParseDelay without the resets.
func (e *apiError) delay(h http.Header, now time.Time) time.Duration {
	if ms, ok := number(h.Get("Retry-After-Ms")); ok {
		if d := seconds(ms / 1000); d > 0 {
			return d
		}
	}
	if d, _ := wait(h.Get("Retry-After"), answered(h, now)); d > 0 {
		return d
	}
	if d, _ := wait(e.retryDelay, now); d > 0 {
		return d
	}
	return textDelay(e.message)
}

// resetDelay waits for the limits that are used up.
func resetDelay(h http.Header, limits []llmqueue.ObservedLimit, now time.Time) time.Duration {
	// This one is Together's suggested interval, and OpenRouter's end of its window.
	d, _ := wait(h.Get("X-Ratelimit-Reset"), answered(h, now))
	for _, l := range limits {
		if l.Remaining == 0 {
			d = max(d, l.Reset)
		}
	}
	return d
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
		case n > 1e9:
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

const unit = `\d+(?:\.\d+)?\s*(?:milliseconds?|ms|seconds?|secs?|s|minutes?|mins?|m|hours?|hrs?|h|days?|d)`

var (
	askedTo = regexp.MustCompile(`(?i)\b(?:try(?:ing)? again|retry(?:ing)?)\s+(?:in|after)\s+((?:` + unit + `\s*)+)`)
	oneUnit = regexp.MustCompile(`(?i)(\d+(?:\.\d+)?)\s*([a-z]+)`)
	ofUnit  = map[string]time.Duration{"s": time.Second, "m": time.Minute, "h": time.Hour, "d": 24 * time.Hour}
)

// textDelay finds advice such as "Please try again in 1m3.5s." in a message.
func textDelay(message string) time.Duration {
	m := askedTo.FindStringSubmatch(message)
	if m == nil {
		return 0
	}
	var sum float64
	for _, part := range oneUnit.FindAllStringSubmatch(m[1], -1) {
		n, err := strconv.ParseFloat(part[1], 64)
		if err != nil {
			return 0
		}
		u := ofUnit[strings.ToLower(part[2][:1])]
		if l := strings.ToLower(part[2]); strings.HasPrefix(l, "ms") || strings.HasPrefix(l, "milli") {
			u = time.Millisecond
		}
		sum += n * u.Seconds()
	}
	return seconds(sum)
}
