package results

import (
	"bytes"
	"encoding/json"
	"reflect"
	"testing"
	"time"
)

// FuzzALineIsThatOfEncodingJSON, whatever the record has in it.
func FuzzALineIsThatOfEncodingJSON(f *testing.F) {
	f.Add("line-1", "m", "", "req_1", "", `{"a":[1,"<&>"]}`, 1.5, int64(7), int64(1764547200123456789), uint64(17))
	f.Add("\"\\\n\x00<é\u2028\xff", "m & n", "other", "", "no\ttext", ``, 1e-7, int64(0), int64(0), uint64(0))
	f.Add("", "", "", "", "", "null", -1e21, int64(-1), int64(1), uint64(1)<<63)
	f.Fuzz(func(t *testing.T, id, model, instead, request, message, body string, latency float64, n, at int64, hash uint64) {
		r := &Record{
			CustomID: id,
			Run: Run{
				Line: n, Model: model, Instead: instead, LatencyMS: latency, Attempts: int(n), Input: n, Output: n / 2, Cached: n % 3, Charged: -n,
				FromCache: n%2 == 0, Hash: Hash(hash), Batch: request, Tier: instead,
			},
		}
		if at != 0 {
			r.Run.StartedAt = time.Unix(0, at).In(time.FixedZone("", int(n%50_000)))
		}
		if message != "" {
			r.Error = &Error{Code: request, Message: message}
		}
		if json.Valid([]byte(body)) {
			r.Response = &Response{Status: int(n), RequestID: request, Body: json.RawMessage(body)}
			r.Run.Kept = map[string]json.RawMessage{id: json.RawMessage(body), "b": json.RawMessage("1")}
		}
		got, err := appendRecord([]byte("before"), r)
		want, wantErr := json.Marshal(r)
		if (err != nil) != (wantErr != nil) {
			t.Fatalf("%v, want %v", err, wantErr)
		}
		if err != nil {
			return
		}
		got, ends := bytes.CutSuffix(bytes.TrimPrefix(got, []byte("before")), []byte("\n"))
		if !ends || bytes.ContainsAny(got, "\r\n") {
			t.Fatalf("%q is no line", got)
		}
		var a, b any
		if err := json.Unmarshal(got, &a); err != nil {
			t.Fatalf("%s: %v", got, err)
		}
		_ = json.Unmarshal(want, &b)
		if r.Response == nil && !bytes.Equal(got, want) || !reflect.DeepEqual(a, b) {
			t.Errorf("wrote\n%s, want\n%s", got, want)
		}
	})
}

// TestEveryFieldOfARecordIsWritten, also one that is new.
func TestEveryFieldOfARecordIsWritten(t *testing.T) {
	r := &Record{CustomID: "a", Response: &Response{200, "q", json.RawMessage("{}")}, Error: &Error{"c", "m"}}
	run := reflect.ValueOf(&r.Run).Elem()
	for i := range run.NumField() {
		switch f := run.Field(i); f.Kind() {
		case reflect.String:
			f.SetString("x")
		case reflect.Int, reflect.Int64:
			f.SetInt(int64(i + 1))
		case reflect.Uint64:
			f.SetUint(uint64(i + 1))
		case reflect.Float64:
			f.SetFloat(0.5)
		case reflect.Bool:
			f.SetBool(true)
		case reflect.Map:
			f.Set(reflect.ValueOf(map[string]json.RawMessage{"k": json.RawMessage("1")}))
		default:
			f.Set(reflect.ValueOf(time.Unix(1_764_547_200, 5)))
		}
	}
	got, err := appendRecord(nil, r)
	want, wantErr := json.Marshal(r)
	if err != nil || wantErr != nil || string(got) != string(want)+"\n" {
		t.Errorf("wrote\n%s (%v), want\n%s (%v)", got, err, want, wantErr)
	}
}
