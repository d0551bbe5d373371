package llmhttp

import (
	"encoding/json"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/llmqueue/llmqueue"
)

// apiError is what an error says, whatever its shape.
type apiError struct {
	found    bool   // there is one
	alarm    string // the path of a status within an answer that says so
	ranked   [ranks][]string
	message  string
	param    string // the part of the request that it blames
	flagged  bool   // it says what moderation found in the request
	status   int    // that it gives itself
	wait     string // how long to wait, or until when
	waitUnit uint8
	quotas   []quota
	headers  http.Header
	upstream *apiError // the error that a gateway was given
}

// ranks are how telling a code, a status or a type is: the lowest comes first, and those beside
// an error's object come last.
const (
	ranks   = 10
	topRank = 5 // is added to those
)

// quota is one of Google's that a call broke.
type quota struct{ id, what, amount string }

// parseAPIError is parseFailure for who asks of the error alone.
func parseAPIError(body []byte) *apiError {
	e, _ := parseFailure(body)
	return e
}

// parseFailure reads a failure's body: what has no other shape is a message. Some failures
// used something.
func parseFailure(body []byte) (*apiError, llmqueue.Usage) {
	s := scanner{answer: answer{failure: true}}
	s.write(body)
	e := s.err
	if e == nil {
		e = &apiError{message: string(body[:min(len(body), maxText)])}
	}
	e.found = e.found || s.failed
	return e, s.usage()
}

// readError gives the error that a document is, or nil. Of one that is an error in any case it
// gives what the document has. bare tells that the document has a code and a message alone.
func readError(d *document, inAnyCase, bare bool) *apiError {
	e := &apiError{}
	var top apiError // what stands beside
	var topWait, topParam value
	named, coded := false, false
	for _, v := range d.values {
		if v.fact.role == roleError && (v.object || !blank(d.bytes[v.from:v.to])) {
			named = true
			if v.fact.n > 0 {
				e.say(0, exceptions[v.fact.n-1])
			}
		}
		if v.object {
			continue
		}
		said := text(d.bytes[v.from:v.to])
		switch v.fact.role {
		case roleError:
			if blank(d.bytes[v.from:v.to]) {
				continue
			}
			e.speak(said)
			if codeWord.MatchString(said) { // which has its sentence beside it
				e.say(topRank, said)
				coded = true
			}
		case roleAlarm:
			if alarming(v.fact.n, d.bytes[v.from:v.to]) {
				e.found, e.alarm = true, alarms[v.fact.n]
				e.say(topRank, said)
			}
		case roleMilestone:
			if m := milestones[milestoneMembers[v.fact.n].name+" "+strings.ToLower(said)]; m.error {
				e.found = true
			}
		case roleWord:
			rank := int(v.fact.n)
			if v.fact.top {
				rank = min(rank+topRank, ranks-1)
			}
			e.say(rank, said)
		case roleMessage:
			if strings.Contains(said, "_") && codeWord.MatchString(said) { // a code in a sentence's place
				e.say(ranks-1, said)
			}
			if v.fact.top {
				top.speak(said)
			} else {
				e.speak(said)
			}
		case roleParam:
			if !v.fact.top && said != "" {
				e.param = said
			} else if v.fact.top {
				topParam = v
			}
		case roleFlag:
			e.flagged = e.flagged || said != ""
		case roleWait:
			switch {
			case v.fact.top:
				topWait = v
			case said != "" && e.wait == "":
				e.wait, e.waitUnit = said, v.fact.n
			}
		case roleHeader:
			if e.headers == nil {
				e.headers = http.Header{}
			}
			e.headers.Set(string(d.bytes[v.key:v.from]), said)
		case roleQuoted:
			if strings.HasPrefix(strings.TrimSpace(said), "{") || strings.HasPrefix(strings.TrimSpace(said), "[") {
				e.upstream = parseAPIError([]byte(said))
			}
		case roleQuotaID, roleQuotaWhat, roleQuotaValue:
			e.quota(v.fact.role, said)
		}
	}
	e.found = e.found || bare || named && e.saysAnything()
	if !e.found && !inAnyCase {
		return nil
	}
	if e.message == "" || coded {
		e.speak(top.message)
	}
	e.unquote()
	if e.wait == "" && topWait.to > 0 {
		e.wait, e.waitUnit = text(d.bytes[topWait.from:topWait.to]), topWait.fact.n
	}
	if e.param == "" {
		e.param = text(d.bytes[topParam.from:topParam.to])
	}
	return e
}

// saysAnything reports whether an error has more than a code of success.
func (e *apiError) saysAnything() bool {
	for w := range e.words {
		if !fine([]byte(w)) {
			return true
		}
	}
	return e.message != "" || e.upstream != nil
}

var codeWord = regexp.MustCompile(`^[\w.:-]+$`)

// speak adds what an error says to people.
func (e *apiError) speak(message string) {
	switch {
	case e.message == "":
		e.message = message
	case message != "" && len(e.message) < maxText:
		e.message += ". " + message
	}
}

// say adds a word. One that is the name of a shape of Amazon's ends its type.
func (e *apiError) say(rank int, word string) {
	if i := strings.LastIndexByte(word, '#'); i >= 0 {
		word = word[i+1:]
	}
	if word == "" || word == "error" && rank >= topRank {
		return
	}
	e.ranked[rank] = append(e.ranked[rank], word)
	if n, err := strconv.Atoi(word); err == nil && e.status == 0 && n >= 400 && n < 600 {
		e.status = n
	}
}

// quota adds a part of a broken quota. Each has its parts once, in any order.
func (e *apiError) quota(part role, said string) {
	q := func() *quota {
		if n := len(e.quotas); n > 0 {
			return &e.quotas[n-1]
		}
		return nil
	}()
	set := func(q *quota) *string {
		switch part {
		case roleQuotaID:
			return &q.id
		case roleQuotaWhat:
			return &q.what
		}
		return &q.amount
	}
	if q == nil || *set(q) != "" {
		e.quotas = append(e.quotas, quota{})
		q = &e.quotas[len(e.quotas)-1]
	}
	*set(q) = said
}

// words are the codes, statuses and types, the most telling first.
func (e *apiError) words(yield func(string) bool) {
	for _, rank := range e.ranked {
		for _, w := range rank {
			if !yield(w) {
				return
			}
		}
	}
	if e.upstream != nil {
		e.upstream.words(yield)
	}
}

// code is the provider's own word for the error: the first that is not a number.
func (e *apiError) code() string {
	number := ""
	for w := range e.words {
		if strings.Trim(w, "0123456789") != "" {
			return w
		}
		if number == "" {
			number = w
		}
	}
	return number
}

// sentence is the message in lower case, as far as it is meant to be read by a client. What
// matters stands at its beginning.
func (e *apiError) sentence() string {
	m := strings.ToLower(e.message[:min(len(e.message), longestSentence)])
	m = strings.ReplaceAll(m, "ratelimiterror", "") // LiteLLM's name for any 429
	if strings.HasPrefix(strings.TrimSpace(m), "<") {
		m = "" // a page for people
	}
	if e.upstream != nil {
		m += "\n" + e.upstream.sentence()
	}
	return m
}

const longestSentence = 1 << 10

// perDay reports whether a broken quota is one of a day.
func (e *apiError) perDay() bool {
	for _, q := range e.quotas {
		if strings.Contains(q.id, "PerDay") {
			return true
		}
	}
	return e.upstream != nil && e.upstream.perDay()
}

// never reports whether a broken quota is zero.
func (e *apiError) never() bool {
	for _, q := range e.quotas {
		if q.amount == "0" {
			return true
		}
	}
	return e.upstream != nil && e.upstream.never()
}

// limit is the limit that q names, such as GenerateRequestsPerMinutePerProjectPerModel.
func (q quota) limit() (llmqueue.ObservedLimit, bool) {
	n, ok := integer(q.amount)
	if !ok || n < 1 {
		return llmqueue.ObservedLimit{}, false
	}
	l := llmqueue.ObservedLimit{Kind: llmqueue.KindRPM, Amount: n}
	if what := strings.ToLower(q.id + q.what); strings.Contains(what, "token") {
		l.Remaining = -1 // too little for that call
		if l.Kind = llmqueue.KindTPM; strings.Contains(what, "input") {
			l.Kind = llmqueue.KindITPM
		}
	}
	switch {
	case strings.Contains(q.id, "PerDay"):
		setPeriod(&l, 24*time.Hour)
	case strings.Contains(q.id, "PerMinute"):
		l.Period = time.Minute
	default:
		return l, false
	}
	return l, true
}

// text is what a string or a number says; anything else is empty. A string may have lost its end.
func text(raw []byte) string {
	if len(raw) == 0 || raw[0] != '"' {
		if len(raw) > 0 && (raw[0] == '-' || raw[0] >= '0' && raw[0] <= '9') {
			return string(raw)
		}
		return ""
	}
	for range 7 { // an escape that was cut has at most six bytes
		var s string
		if err := json.Unmarshal(raw, &s); err == nil {
			return s
		}
		if len(raw) < 3 {
			break
		}
		raw = append(raw[:len(raw)-2:len(raw)-2], '"')
	}
	return ""
}
