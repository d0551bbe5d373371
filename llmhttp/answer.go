package llmhttp

import (
	"bytes"
	"encoding/base64"
	"net/http"
	"time"

	"github.com/llmqueue/llmqueue"
)

// answer is what the documents of one answer have said so far.
type answer struct {
	counts counts
	early  bool // counts holds only what Anthropic says at the beginning of a stream
	err    *apiError

	// Of the document that comes along.
	failure   bool   // it is worth reading: the answer is a failure
	isError   bool   // it is an error: so its event or frame is named
	exception string // the name of that frame
	idle      bool   // it only keeps the connection open
	stored    bool   // it tells of calls that were made before
	told      told

	// How far the answer has come.
	output  bool // a part of it has come since this was last cleared
	dialect dialect
	over    bool // the dialect's last event has come, or what makes it superfluous
	failed  bool // there was an error, though it may have said nothing
	page    bool // it is a page for people
}

// take reads what was kept of a document that is complete.
func (a *answer) take(d *document, events bool) {
	a.idle, a.stored = false, false
	failed, over := a.failed, a.over
	telling := a.failure || a.isError
	var figures, code, message, content, spoken bool
	var done []byte
	for _, v := range d.values {
		raw := d.bytes[v.from:v.to]
		switch v.fact.role {
		case roleFigure:
			figures = true
		case roleError:
			telling = telling || v.object || !blank(raw)
		case roleAlarm:
			telling = telling || alarming(v.fact.n, raw)
		case roleWord:
			code = code || v.fact.top && v.fact.n == 1 && !fine(raw) && bytes.IndexByte(raw, ' ') < 0
		case roleMessage:
			spoken = spoken || v.object
			message = message || v.fact.top && !v.object && !fine(raw)
		case roleMilestone:
			switch name := milestoneMembers[v.fact.n].name; {
			case name == "content":
				content = true
			case name == "done":
				done = raw
			case name == "candidates":
				if content = true; events {
					a.recognize(geminiEvents)
				}
			case a.milestone(name, raw):
				telling = true
			}
		case roleEncoded:
			a.encoded(raw)
		}
	}
	if content || spoken || a.dialect == ollamaLines { // not of an operation that goes on
		a.milestone("done", done)
	}
	if a.stored {
		a.failed, a.over = failed, over
		return
	}
	bare := code && message && !figures && !content
	if figures {
		a.figures(d)
	}
	if telling || bare {
		if e := readError(d, a.isError || a.failure, bare); e != nil {
			e.found = e.found || a.isError
			e.say(0, a.exception)
			if e.found || a.err == nil || !a.err.found {
				a.err = e
			}
		}
	}
}

// figures takes in what a document says was used.
func (a *answer) figures(d *document) {
	for _, v := range d.values {
		if v.fact.role != roleFigure || v.object {
			continue
		}
		if n := count(d.bytes[v.from:v.to]); n > 0 {
			a.counts[v.fact.n] = n
			a.early = v.fact.top
		}
	}
}

// encoded reads a document in base64, which Bedrock's InvokeModelWithResponseStream has in
// its frames.
func (a *answer) encoded(raw []byte) {
	if len(raw) < 2 || raw[0] != '"' { // a file's size has the same name
		return
	}
	raw = raw[1 : len(raw)-1]
	decoded := make([]byte, base64.StdEncoding.DecodedLen(len(raw)))
	n, err := base64.StdEncoding.Decode(decoded, raw)
	if err != nil {
		return
	}
	s := scanner{answer: *a}
	s.write(decoded[:n])
	*a = s.answer
}

func (a *answer) usage() llmqueue.Usage {
	if a.early {
		return llmqueue.Usage{}
	}
	return a.counts.usage()
}

// observation is what the answer says in the end.
func (a *answer) observation(from origin, now time.Time) llmqueue.Observation {
	var o llmqueue.Observation
	if a.err != nil {
		o = a.err.observation(0, from, now)
	}
	if o.Usage = a.usage(); from.method == http.MethodGet && a.told == toldResponse {
		o.Usage = llmqueue.Usage{}
	}
	return o
}
