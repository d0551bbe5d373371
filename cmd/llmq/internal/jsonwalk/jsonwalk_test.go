package jsonwalk

import (
	"bytes"
	"encoding/json"
	"slices"
	"strings"
	"testing"
)

// FuzzTheWalkMeetsWhatIsThere compares with encoding/json, which builds the values.
func FuzzTheWalkMeetsWhatIsThere(f *testing.F) {
	for _, data := range []string{
		`{}`, `[]`, `null`, `-1.5e3`, `"a"`, ` { "a" : [ "}" , {} ] , "b":"\\"} `, `{"a":-1.5e3,"a":null}`, "{\"\\u0061\":{\"x\":[]}\n}",
		`[1,"\\\"",["a:b" ,true ],{"skipped":{"x":[1,"y"]},"kept":"\u00e9\ud83d\ude00\n"}]`, `{"":"","\"":"\\\\","x":[[[]]]}`, "{\"\xff\":1}",
		`{"role":"user","content":[{"type":"text","text":"a"},{"image_url":{"url":"data:"}}]}`,
	} {
		f.Add([]byte(data))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var v any
		if json.Unmarshal(data, &v) != nil {
			return
		}
		data = bytes.TrimSpace(data)
		if end := End(data, 0); end != len(data) {
			t.Fatalf("%q ends at %d", data, end)
		}
		switch v := v.(type) {
		case map[string]any:
			seen := map[string]json.RawMessage{}
			for m := range Members(data) {
				seen[string(m.Name)] = m.Value
				if !bytes.HasSuffix(data[m.From:m.To], m.Value) {
					t.Errorf("%q is not where %q has it", m.Value, data)
				}
			}
			same(t, seen, v)
			if IsEmpty(data) != (len(v) == 0) {
				t.Errorf("%q is empty, or not: %v", data, IsEmpty(data))
			}
		case []any:
			seen := []json.RawMessage{}
			for e := range Elements(data) {
				seen = append(seen, e)
			}
			same(t, seen, v)
		case string:
			if !bytes.Contains(data, []byte(`\u`)) && !bytes.ContainsRune([]byte(v), '\uFFFD') && Length(data) != len(v) {
				t.Errorf("%q has %d bytes, want %d", data, Length(data), len(v))
			}
		}
	})
}

// same compares what was met with what encoding/json makes of it all.
func same(t *testing.T, met, want any) {
	t.Helper()
	got, err := json.Marshal(met)
	if err != nil {
		t.Fatalf("what was met is no JSON: %v", err)
	}
	var again any
	_ = json.Unmarshal(got, &again)
	got, _ = json.Marshal(again)
	if wanted, _ := json.Marshal(want); !bytes.Equal(got, wanted) {
		t.Errorf("met %s, want %s", got, wanted)
	}
}

// FuzzValidSaysWhatJSONValidSays of anything.
func FuzzValidSaysWhatJSONValidSays(f *testing.F) {
	for _, data := range []string{
		"", " ", "1 2", "{}", "[ ]", "{]", "[}", `{"a":1,}`, `[1,]`, `{"a"}`, `{"a":}`, `{1:2}`, `{,}`, "tru", "nullx", `"a`, `"\\`, `"\x"`, `"\u12g4"`, `"\u12`, "\"a\tb\"",
		"01", "-", "-0", "1.", "1.e1", ".5", "1e", "1E+", "1e-7 ", "+1", `"12345678"`, "\"1234567\x1f\"", "\"1234567\x7f\x80\xff\"", `"1234567\"9"`, `{"a":[{"b":"c"},[true,false,null]]}`,
		strings.Repeat("[", 10_000) + strings.Repeat("]", 10_000), strings.Repeat("[", 10_001) + strings.Repeat("]", 10_001), `{"a" : "b" , "c":[ ] } `, "\ufeff{}",
	} {
		f.Add([]byte(data))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if got, want := Valid(data), json.Valid(data); got != want {
			t.Errorf("%q is valid: %v, want %v", data, got, want)
		}
	})
}

// BenchmarkALineWithAnImage is of 7 MB, against json.Valid.
func BenchmarkALineWithAnImage(b *testing.B) {
	line := []byte(`{"image":"` + strings.Repeat("iVBORw0K", 7<<17) + `"}`)
	for name, valid := range map[string]func([]byte) bool{"jsonwalk": Valid, "encoding-json": json.Valid} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(line)))
			for b.Loop() {
				if !valid(line) {
					b.Fatal("it is valid")
				}
			}
		})
	}
}

func TestTextsAndTheirLengths(t *testing.T) {
	skip := func(name []byte) bool { return string(name) == "url" }
	for data, want := range map[string][]string{
		`{"url":"x","a":"b","c":[1,"d:e",{"url":{"f":"g"} , "h" : "i"}]}`: {`"b"`, `1`, `"d:e"`, `"i"`},
		`"x"`: {`"x"`}, `[true,null,-1.5]`: {`-1.5`}, `{}`: nil, `{"\u0075rl":"x","a":[]}`: nil,
	} {
		var got []string
		for v := range Texts([]byte(data), skip) {
			got = append(got, string(v))
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s has %q, want %q", data, got, want)
		}
	}
	for quoted, want := range map[string]int{`""`: 0, `"a\n\"b"`: 4, `"\u00e9é"`: 4, `"\ud83d\ude00"`: 4, `"\u20AC\u0041"`: 4} {
		if got := Length([]byte(quoted)); got != want {
			t.Errorf("%s has %d bytes, want %d", quoted, got, want)
		}
	}
}
