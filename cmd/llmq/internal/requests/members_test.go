package requests

import (
	"bytes"
	"encoding/json"
	"testing"
)

// TestTheBodyGoesOutByteForByte: what llmq takes out or puts in leaves the rest as it came,
// its order, its spaces, its numbers and what comes twice.
func TestTheBodyGoesOutByteForByte(t *testing.T) {
	for line, want := range map[string]string{
		`{"custom_id":"a","model":"m","messages":[],"b":1,"a":1.0}`:                  `{"model":"m","messages":[],"b":1,"a":1.0}`,
		`{"model":"m","messages":[],"custom_id":"a"}`:                                `{"model":"m","messages":[]}`,
		`{ "z": 1 , "custom_id" : "a" , "model": "m", "messages": [ ] }`:             `{ "z": 1 ,  "model": "m", "messages": [ ] }`,
		`{"model":"m","seed":12345678901234567890,"messages":[],"custom_id":1.50 }`:  `{"model":"m","seed":12345678901234567890,"messages":[] }`,
		`{"custom_id":"a","model":"m","stop":"x","stop":"y","messages":[]}`:          `{"model":"m","stop":"x","stop":"y","messages":[]}`,
		`{"custom_id":"a","model":"m","messages":[{"custom_id":"b"}],"custom_id":2}`: `{"model":"m","messages":[{"custom_id":"b"}]}`,
		`{"a":"},\"custom_id\":{","custom_id":"\"}","model":"m","messages":["<é>"]}`: `{"a":"},\"custom_id\":{","model":"m","messages":["<é>"]}`,
		`{"custom\u005fid":"a","model":"m","messages":[]}`:                           `{"model":"m","messages":[]}`,
		`{"custom_id":"a","body":{ "z":1, "messages":[], "a":2 }}`:                   `{"model":"given", "z":1, "messages":[], "a":2 }`,
		`{"custom_id":"a","body":{"z":1,"model":null,"messages":[],"a":2}}`:          `{"model":"given","z":1,"messages":[],"a":2}`,
		`{"custom_id":"a","body":{"z":1,"model":""}}`:                                `{"model":"given","z":1}`,
		`{"custom_id":"a","body":{ }}`:                                               `{"model":"given" }`,
		`{"custom_id":"a","body":{ "model": "m" , "z": 1, "messages":[] }}`:          `{ "model": "m" , "z": 1, "messages":[] }`,
	} {
		var got string
		f := &Format{Model: "given"}
		if err := f.Read("in", bytes.NewReader([]byte(line)), func(r *Request) bool { got = string(r.Body); return true }); err != nil {
			t.Errorf("%s: %v", line, err)
		} else if got != want {
			t.Errorf("%s\nsends %s\nwant  %s", line, got, want)
		}
	}
}

// FuzzWhatIsPutInComesOutAgain and leaves nothing behind, in any object.
func FuzzWhatIsPutInComesOutAgain(f *testing.F) {
	for _, object := range []string{`{}`, `{"a":1}`, ` { "a" : [ "}" , {} ] , "b":"\\"} `, `{"a":-1.5e3,"a":null}`, "{\"\\u0061\":{\"x\":[]}\n}"} {
		f.Add([]byte(object))
	}
	f.Fuzz(func(t *testing.T, object []byte) {
		var fields map[string]json.RawMessage
		if json.Unmarshal(object, &fields) != nil || fields == nil || fields["id"] != nil {
			return
		}
		with := withFirst(object, "id", "x")
		if !json.Valid(with) {
			t.Fatalf("%q becomes %q", object, with)
		}
		if got := without(with, "id"); !bytes.Equal(got, object) {
			t.Fatalf("%q becomes %q", object, got)
		}
		for name := range fields {
			var left map[string]json.RawMessage
			if got := without(object, name); json.Unmarshal(got, &left) != nil || left[name] != nil || len(left) != len(fields)-1 {
				t.Fatalf("%q without %q is %q", object, name, got)
			}
		}
	})
}
