package results

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
)

// FuzzAForeignFileIsNeverChanged opens an output that may have any bytes: it is refused and
// stays as it is, or it is llmq's and loses at most what a crash left of a record.
func FuzzAForeignFileIsNeverChanged(f *testing.F) {
	const record = `{"id":"batch_req_00000000000000aa","custom_id":"a","response":null,"error":null,"llmq":{"line":1}}`
	for _, content := range []string{
		"", "\n", "notes", "a,b\n1,2\n", "{\n}\n", "\x00\x00", record, record + "\n", record + "\n" + record[:40], record[:40],
		record + "\n\x00\x00\n\x00", record + "\n" + record[:30] + "\x00\x00", record + "\nnote", record + "\n{\n" + record + "\n",
		`{"custom_id":"a"}` + "\n", `{"id":"batch_req_notes of mine` + "\x00",
	} {
		f.Add([]byte(content), true)
		f.Add([]byte(content), false)
	}
	f.Fuzz(func(t *testing.T, content []byte, ranBefore bool) {
		path := filepath.Join(t.TempDir(), "out")
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		if ranBefore {
			if err := os.Mkdir(Dir(path), 0o700); err != nil {
				t.Fatal(err)
			}
		}
		file, refused := Open(path, nil)
		if refused == nil {
			if err := file.Close(); err != nil {
				t.Fatal(err)
			}
		}
		after, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Equal(after, content) {
			return
		}
		if refused != nil {
			t.Fatalf("refused (%v), and yet changed: %q became %q", refused, content, after)
		}
		if !ranBefore && len(after) == 0 {
			t.Fatalf("a file that no run had written was emptied: %q", content)
		}
		for line := range bytes.Lines(after) {
			var r struct {
				ID   string          `json:"custom_id"`
				Llmq json.RawMessage `json:"llmq"`
			}
			if json.Unmarshal(line, &r) != nil || r.ID == "" || r.Llmq == nil {
				t.Fatalf("a file with another's line was changed: %q became %q", content, after)
			}
		}
		if bytes.Equal(after, append(bytes.Clone(content), '\n')) {
			return
		}
		cut, ok := bytes.CutPrefix(content, after)
		if !ok {
			t.Fatalf("%q became %q", content, after)
		}
		begun, zeros, _ := bytes.Cut(cut, []byte{0})
		if !bytes.HasPrefix(begun, []byte(beginning)) && !bytes.HasPrefix([]byte(beginning), begun) ||
			bytes.Contains(begun, []byte("\n")) || len(bytes.Trim(zeros, "\x00\n")) > 0 {
			t.Fatalf("cut off was %q, which no crash leaves", cut)
		}
	})
}
