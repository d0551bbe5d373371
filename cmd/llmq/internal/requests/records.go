package requests

import (
	"bufio"
	"bytes"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"unicode/utf8"
)

// Inputs are the formats of a file of requests, as --input-format names them: "jsonl" has one
// JSON object a line, "json" an array of them, "csv" and "tsv" a first line of names.
var Inputs = []string{"jsonl", "json", "csv", "tsv"}

// inputOf is the format of what is read: as it is set, as the file's name ends, or as the
// first byte tells.
func (f *Format) inputOf(name string, begin []byte) string {
	if f.Input != "" {
		return f.Input
	}
	name = strings.ToLower(name)
	for _, end := range []string{".gz", ".zst"} {
		name = strings.TrimSuffix(name, end)
	}
	switch ext := strings.TrimPrefix(filepath.Ext(name), "."); {
	case ext == "csv" || ext == "tsv":
		return ext
	case bytes.HasPrefix(bytes.TrimLeft(begin, " \t\r\n"), []byte("[")):
		return "json"
	}
	return "jsonl"
}

// unread are formats that are not read, by how they begin, and what to do instead.
var unread = []struct{ begin, name, instead string }{
	{"PAR1", "Parquet", `convert it, as by duckdb -c "COPY 'in.parquet' TO 'in.jsonl'"`},
	{"ARROW1", "Arrow", "convert it to JSON lines"},
	{"PK\x03\x04", "a zip archive or an Excel sheet", "unpack it, or save the sheet as CSV"},
	{"BZh", "bzip2", "unpack it, as by bzcat FILE | llmq run -"},
	{"\xfd7zXZ", "xz", "unpack it, as by xzcat FILE | llmq run -"},
	{"SQLite format 3", "an SQLite database", "convert it, as by sqlite3 -json FILE 'SELECT …' > in.json"},
	{"\xff\xfe", "UTF-16", "convert it, as by iconv -f UTF-16 -t UTF-8"},
	{"\xfe\xff", "UTF-16", "convert it, as by iconv -f UTF-16 -t UTF-8"},
}

const mark = "\xef\xbb\xbf" // that some programs begin a file in UTF-8 with

// Read gives the requests of r in order until yield returns false or one is bad: that is a
// *LineError. name is for messages, and its ending tells a table.
func (f *Format) Read(name string, r io.Reader, yield func(*Request) bool) error {
	in := bufio.NewReaderSize(r, 64<<10)
	if begin, _ := in.Peek(len(mark)); string(begin) == mark {
		_, _ = in.Discard(len(mark))
	}
	begin, _ := in.Peek(512)
	binary := bytes.ContainsFunc(begin, func(r rune) bool { return r < '\t' })
	for _, u := range unread {
		if binary && bytes.HasPrefix(begin, []byte(u.begin)) {
			return &LineError{name, 1, fmt.Errorf("%s is not read: %s", u.name, u.instead)}
		}
	}
	read := f.readLines
	switch f.inputOf(name, begin) {
	case "json":
		read = f.readArray
	case "csv":
		read = f.readTable(',')
	case "tsv":
		read = f.readTable('\t')
	}
	n, err := read(in, func(record []byte, n int64) (bool, error) {
		req, err := f.parse(record, n)
		return err == nil && yield(req), err
	})
	if err != nil {
		return &LineError{name, n, err}
	}
	return nil
}

// maxLine is the longest line that is read.
const maxLine = 64 << 20

// take gets a record, a JSON object, and its number. It returns whether it wants another.
type take func(record []byte, n int64) (bool, error)

// readLines reads one object a line, empty lines left out. n is where an error is.
func (f *Format) readLines(r *bufio.Reader, each take) (n int64, err error) {
	lines := bufio.NewScanner(r)
	lines.Buffer(make([]byte, 64<<10), maxLine)
	for lines.Scan() {
		n++
		line := bytes.TrimSpace(lines.Bytes())
		if len(line) == 0 {
			continue
		}
		if more, err := each(line, n); err != nil || !more {
			return n, err
		}
	}
	switch err := lines.Err(); {
	case errors.Is(err, bufio.ErrTooLong):
		return n + 1, fmt.Errorf("longer than %d MiB: is it one JSON object a line?", maxLine>>20)
	case err != nil:
		return n + 1, fmt.Errorf("cannot be read: %w", err)
	}
	return n, nil
}

// readArray reads an array of objects. Their numbers are those of its elements, from 1.
func (f *Format) readArray(r *bufio.Reader, each take) (n int64, err error) {
	d := json.NewDecoder(r)
	if t, err := d.Token(); err != nil || t != json.Delim('[') {
		return 1, errors.New("no JSON array: want [ {…}, {…} ], or --input-format jsonl")
	}
	for d.More() {
		n++
		var element json.RawMessage
		if err := d.Decode(&element); err != nil {
			return n, arrayError(err)
		}
		if more, err := each(element, n); err != nil || !more {
			return n, err
		}
	}
	if _, err := d.Token(); err != nil {
		return n + 1, arrayError(err)
	}
	_, err = d.Token()
	switch syntax := (*json.SyntaxError)(nil); {
	case err == io.EOF:
		return n, nil
	case err == nil || errors.As(err, &syntax):
		return n + 1, errors.New("something stands behind the JSON array: take it out")
	}
	return n + 1, fmt.Errorf("cannot be read: %w", err)
}

func arrayError(err error) error {
	var at *json.SyntaxError
	switch {
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return errors.New("the JSON array does not end: is the file cut off?")
	case errors.As(err, &at):
		return fmt.Errorf("this element of the JSON array is not valid, at byte %d of the file: %w", at.Offset, err)
	}
	return fmt.Errorf("cannot be read: %w", err)
}

// readTable reads a table whose first line names the columns, the fields of the others. A
// record's number is that of the line on which it begins.
func (f *Format) readTable(comma rune) func(*bufio.Reader, take) (int64, error) {
	return func(r *bufio.Reader, each take) (int64, error) {
		if f.Template == nil {
			return 1, errors.New("a table has no requests: give a --template over its columns, such as 'Answer briefly: {{.question}}'")
		}
		table := csv.NewReader(r)
		table.Comma, table.ReuseRecord = comma, true
		head, err := table.Read()
		if err == io.EOF {
			return 1, nil
		}
		if err != nil {
			return tableError(err, 1, 0)
		}
		head = slices.Clone(head)
		for i, name := range head {
			switch {
			case name == "":
				return 1, fmt.Errorf("column %d has no name: the first line names the columns", i+1)
			case slices.Contains(head[:i], name):
				return 1, fmt.Errorf("two columns are named %q: rename one", name)
			case !utf8.ValidString(name):
				return 1, errNoUTF8
			}
		}
		fields, n := make(map[string]string, len(head)), int64(1)
		for {
			row, err := table.Read()
			if err == io.EOF {
				return n, nil
			}
			if err != nil {
				return tableError(err, n+1, len(head))
			}
			line, _ := table.FieldPos(0)
			n = int64(line)
			for i, name := range head {
				if !utf8.ValidString(row[i]) {
					return n, errNoUTF8
				}
				fields[name] = row[i]
			}
			record, err := json.Marshal(fields)
			if err != nil {
				return n, err
			}
			if more, err := each(record, n); err != nil || !more {
				return n, err
			}
		}
	}
}

var errNoUTF8 = errors.New("the table is not in UTF-8: convert it, as by iconv -f WINDOWS-1252 -t UTF-8")

// tableError says on which line a table is wrong. columns are as many as the first line has.
func tableError(err error, n int64, columns int) (int64, error) {
	at := (*csv.ParseError)(nil)
	if !errors.As(err, &at) {
		return n, fmt.Errorf("cannot be read: %w", err)
	}
	switch {
	case errors.Is(err, csv.ErrFieldCount):
		return int64(at.StartLine), fmt.Errorf("the first line names %d columns, this one has more or fewer: put quotes around a text with separators", columns)
	case errors.Is(err, csv.ErrQuote), errors.Is(err, csv.ErrBareQuote):
		return int64(at.StartLine), fmt.Errorf(`a quote stands where none may, at byte %d of line %d: put quotes around that text, and double those in it`, at.Column, at.Line)
	}
	return int64(at.StartLine), at.Err
}
