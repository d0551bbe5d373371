// Package answers reads a file of results for people and spreadsheets: what the models said,
// as text.
package answers

import (
	"cmp"
	"encoding/json"
	"fmt"
	"time"

	"github.com/llmqueue/llmqueue"
	"github.com/llmqueue/llmqueue/cmd/llmq/internal/prices"
	"github.com/llmqueue/llmqueue/cmd/llmq/internal/results"
	"github.com/llmqueue/llmqueue/llmhttp"
)

// Answer is a result.
type Answer struct {
	Line      int64 // of the input, 0 if it is not known
	ID        string
	Model     string
	Failure   string // its code, empty for an answer
	Text      string // what the model said, or why the request failed
	Usage     llmqueue.Usage
	Cost      float64 // in US dollars
	Priced    bool    // the cost is known
	Attempts  int
	Latency   time.Duration // of the last attempt
	StartedAt time.Time     // zero if it is not known
}

// Read gives the latest result of each id, in the order of the file, until each returns an
// error. The file may be one of OpenAI's Batch API, too. Prices may be nil.
func Read(path string, table prices.Table, each func(*Answer) error) error {
	return results.ReadWhole(path, func(rec *results.Record) error {
		a := &Answer{
			Line: rec.Run.Line, ID: rec.CustomID, Model: rec.Run.Model, Usage: rec.Run.Usage(), Attempts: rec.Run.Attempts,
			Latency: time.Duration(rec.Run.LatencyMS * float64(time.Millisecond)), StartedAt: rec.Run.StartedAt,
		}
		var body answer
		if rec.Response != nil {
			_ = json.Unmarshal(rec.Response.Body, &body) // what is no answer says nothing
			a.Model = cmp.Or(a.Model, body.Model, body.Version)
			if a.Usage == (llmqueue.Usage{}) {
				a.Usage = llmhttp.ParseUsage(rec.Response.Body)
			}
		}
		a.Text = body.text()
		if rec.Failed() {
			a.Failure, a.Text = failure(rec, &body)
		}
		if p, ok := table.Of(a.Model); ok {
			a.Cost, a.Priced = p.Cost(a.Usage)*rec.Run.Share(), true
		}
		return each(a)
	})
}

// failure is the code and the text of one.
func failure(rec *results.Record, body *answer) (code, text string) {
	switch {
	case rec.Error != nil:
		return cmp.Or(rec.Error.Code, "failed"), rec.Error.Message
	case rec.Response == nil:
		return "no_answer", ""
	}
	return fmt.Sprintf("http_%d", rec.Response.Status), body.Error.Message
}
