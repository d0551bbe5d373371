package llmprom

import (
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/llmqueue/llmqueue"
)

// label makes a label's value of any name. Prometheus wants valid UTF-8, and two names
// must never become one, which would spoil the whole scrape: so a byte that is not
// valid becomes \x and two digits, and a backslash is doubled.
func label(name string) string {
	if utf8.ValidString(name) && !strings.ContainsRune(name, '\\') {
		return name
	}
	var b strings.Builder
	for len(name) > 0 {
		r, size := utf8.DecodeRuneInString(name)
		switch {
		case r == utf8.RuneError && size == 1:
			fmt.Fprintf(&b, `\x%02x`, name[0])
		case r == '\\':
			b.WriteString(`\\`)
		default:
			b.WriteString(name[:size])
		}
		name = name[size:]
	}
	return b.String()
}

// period is how long a charge counts under a limit, as Prometheus writes durations:
// "1m", "24h". A limit of running calls has none.
func period(l llmqueue.Limit) string {
	d := l.Period
	switch {
	case d != 0:
	case l.Kind == llmqueue.KindRPD || l.Kind == llmqueue.KindTPD:
		d = 24 * time.Hour
	case l.Kind != llmqueue.KindConcurrent:
		d = time.Minute
	default:
		return ""
	}
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}
