package results

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"hash/fnv"
	"io"
	"math"
	"strconv"
)

// appendRecord appends a record as a line, as encoding/json would write it, but for the
// response's body: that stays as it came, unless it has line ends.
func appendRecord(b []byte, r *Record) (_ []byte, err error) {
	h := fnv.New64a()
	_, _ = io.WriteString(h, r.CustomID)
	r.ID = "batch_req_" + hex.EncodeToString(h.Sum(nil))
	b = append(b, `{"id":`...)
	b = appendText(b, r.ID)
	b = append(b, `,"custom_id":`...)
	b = appendText(b, r.CustomID)
	b = append(b, `,"response":`...)
	if b, err = appendResponse(b, r.Response); err != nil {
		return b, err
	}
	b = append(b, `,"error":`...)
	if r.Error == nil {
		b = append(b, "null"...)
	} else {
		b = append(b, `{"code":`...)
		b = appendText(b, r.Error.Code)
		b = append(b, `,"message":`...)
		b = appendText(b, r.Error.Message)
		b = append(b, '}')
	}
	b = append(b, `,"llmq":`...)
	b, err = appendRun(b, &r.Run)
	return append(b, "}\n"...), err
}

func appendResponse(b []byte, r *Response) ([]byte, error) {
	if r == nil {
		return append(b, "null"...), nil
	}
	b = append(b, `{"status_code":`...)
	b = strconv.AppendInt(b, int64(r.Status), 10)
	b = append(b, `,"request_id":`...)
	b = appendText(b, r.RequestID)
	b = append(b, `,"body":`...)
	switch {
	case r.Body == nil:
		b = append(b, "null"...)
	case bytes.IndexByte(r.Body, '\n') < 0 && bytes.IndexByte(r.Body, '\r') < 0:
		b = append(b, r.Body...)
	default:
		line := bytes.NewBuffer(b)
		if err := json.Compact(line, r.Body); err != nil {
			return b, err
		}
		b = line.Bytes()
	}
	return append(b, '}'), nil
}

func appendRun(b []byte, r *Run) (_ []byte, err error) {
	b = append(b, `{"line":`...)
	b = strconv.AppendInt(b, r.Line, 10)
	b = append(b, `,"model":`...)
	b = appendText(b, r.Model)
	b = appendUnless(b, `,"instead_of":`, r.Instead)
	if !r.StartedAt.IsZero() {
		b = append(b, `,"started_at":"`...)
		if b, err = r.StartedAt.AppendText(b); err != nil {
			return b, err
		}
		b = append(b, '"')
	}
	b = append(b, `,"latency_ms":`...)
	if b, err = appendNumber(b, r.LatencyMS); err != nil {
		return b, err
	}
	b = append(b, `,"attempts":`...)
	b = strconv.AppendInt(b, int64(r.Attempts), 10)
	b = append(b, `,"input_tokens":`...)
	b = strconv.AppendInt(b, r.Input, 10)
	b = append(b, `,"output_tokens":`...)
	b = strconv.AppendInt(b, r.Output, 10)
	if r.Cached != 0 {
		b = append(b, `,"cached_input_tokens":`...)
		b = strconv.AppendInt(b, r.Cached, 10)
	}
	b = append(b, `,"charged_tokens":`...)
	b = strconv.AppendInt(b, r.Charged, 10)
	if r.FromCache {
		b = append(b, `,"from_cache":true`...)
	}
	if r.Hash != 0 {
		b = append(b, `,"request_hash":"`...)
		b = r.Hash.append(b)
		b = append(b, '"')
	}
	b = appendUnless(b, `,"batch":`, r.Batch)
	b = appendUnless(b, `,"tier":`, r.Tier)
	if len(r.Kept) > 0 {
		kept, err := json.Marshal(r.Kept)
		if err != nil {
			return b, err
		}
		b = append(append(b, `,"kept":`...), kept...)
	}
	return append(b, '}'), nil
}

// appendUnless appends a member whose text may be empty: then it is left out.
func appendUnless(b []byte, name, text string) []byte {
	if text == "" {
		return b
	}
	return appendText(append(b, name...), text)
}

func appendText(b []byte, s string) []byte {
	for i := range len(s) {
		switch c := s[i]; {
		case c < ' ', c > '~', c == '"', c == '\\', c == '<', c == '>', c == '&':
			quoted, _ := json.Marshal(s)
			return append(b, quoted...)
		}
	}
	return append(append(append(b, '"'), s...), '"')
}

func appendNumber(b []byte, f float64) ([]byte, error) {
	if a := math.Abs(f); a == 0 || a >= 1e-6 && a < 1e21 { // what encoding/json writes without an exponent
		return strconv.AppendFloat(b, f, 'f', -1, 64), nil
	}
	number, err := json.Marshal(f)
	return append(b, number...), err
}
