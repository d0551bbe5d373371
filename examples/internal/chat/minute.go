package chat

import (
	"fmt"
	"net/http"
	"strings"
	"time"
)

// withMinute makes the simulator's answers say how long its minute lasts.
//
// OpenAI's headers state limits per minute and do not name the period, so a client
// takes a scaled minute for a whole one: it would keep every limit, at a fraction of
// the speed. The headers of the IETF's draft name the period, and say the same
// otherwise. A minute that lasts a minute needs none of this: the answers stay as
// they are.
func withMinute(base http.RoundTripper, minute time.Duration) http.RoundTripper {
	if minute == 0 || minute == time.Minute {
		return base
	}
	return scaledMinute{base, minute}
}

type scaledMinute struct {
	base   http.RoundTripper
	minute time.Duration
}

// RoundTrip makes the call and puts x-ratelimit-*-requests and -tokens into the form
// that names the period:
//
//	RateLimit-Policy: "tokens";q=3600;w=3
//	RateLimit: "tokens";r=3400;t=0.166
func (s scaledMinute) RoundTrip(req *http.Request) (*http.Response, error) {
	res, err := s.base.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	for _, counted := range []string{"requests", "tokens"} {
		take := func(what string) string {
			name := fmt.Sprintf("X-Ratelimit-%s-%s", what, counted)
			defer res.Header.Del(name)
			return res.Header.Get(name)
		}
		limit, remaining := take("Limit"), take("Remaining")
		reset, badReset := time.ParseDuration(take("Reset"))
		if limit == "" || remaining == "" || badReset != nil {
			continue
		}
		res.Header.Add("RateLimit-Policy", fmt.Sprintf("%q;q=%s;w=%s", counted, limit, decimal(s.minute)))
		res.Header.Add("RateLimit", fmt.Sprintf("%q;r=%s;t=%s", counted, remaining, decimal(reset)))
	}
	return res, nil
}

// decimal writes seconds without an exponent.
func decimal(d time.Duration) string {
	return strings.TrimSuffix(strings.TrimRight(fmt.Sprintf("%.9f", d.Seconds()), "0"), ".")
}
