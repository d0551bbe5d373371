package cli

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/spf13/pflag"

	"github.com/llmqueue/llmqueue/cmd/llmq/internal/requests"
)

// bodyFlags are the flags that add members to a template's bodies, and carry fields to the
// results.
type bodyFlags struct {
	set, setJSON, keep []string
	tools              string
}

func (f *bodyFlags) register(fs *pflag.FlagSet) {
	fs.StringArrayVar(&f.set, "set", nil, "with --template: a member of the body, `NAME=VALUE`, such as temperature=0; a number, true, false and null are that, all else is a text; may be repeated")
	fs.StringArrayVar(&f.setJSON, "set-json", nil, "with --template: a member of the body whose value is JSON, or is read from a file: `NAME=JSON` or NAME=@FILE; may be repeated")
	fs.StringVar(&f.tools, "tools", "", "with --template: the body's tools, as `JSON` or @FILE")
	fs.StringSliceVar(&f.keep, "keep", nil, "`fields` of a line that its result carries, such as label,metadata")
}

// apply sets what the flags come to.
func (f *bodyFlags) apply(to *requests.Format) error {
	to.Keep = f.keep
	if slices.Contains(f.keep, "") {
		return errors.New("--keep has an empty name: want fields such as label,metadata")
	}
	if len(f.set)+len(f.setJSON) == 0 && f.tools == "" {
		return nil
	}
	if to.Template == nil {
		return errors.New("--set, --set-json and --tools go with --template: other lines are sent as they are")
	}
	to.Set = map[string]json.RawMessage{}
	put := func(flag, name string, value json.RawMessage) error {
		switch name {
		case "model", "messages", "input":
			return fmt.Errorf("%s: that member is made of --model and --template", flag)
		}
		if _, twice := to.Set[name]; twice {
			return fmt.Errorf("%s: that member is set twice", flag)
		}
		to.Set[name] = value
		return nil
	}
	for _, item := range f.set {
		name, text, ok := strings.Cut(item, "=")
		if !ok || name == "" {
			return fmt.Errorf("--set %q: want NAME=VALUE, such as temperature=0", item)
		}
		if err := put("--set "+name, name, scalar(text)); err != nil {
			return err
		}
	}
	list := f.setJSON
	if f.tools != "" {
		list = append(list[:len(list):len(list)], "tools="+f.tools)
	}
	for i, item := range list {
		name, text, ok := strings.Cut(item, "=")
		if !ok || name == "" {
			return fmt.Errorf("--set-json %q: want NAME=JSON or NAME=@FILE", item)
		}
		flag := "--set-json " + name
		if i == len(f.setJSON) {
			flag = "--tools"
		}
		value, err := jsonOf(text)
		if err != nil {
			return fmt.Errorf("%s: %w", flag, err)
		}
		if err := put(flag, name, value); err != nil {
			return err
		}
	}
	return nil
}

// scalar is a value as JSON: a number, a truth value or null as it stands, else a text.
func scalar(text string) json.RawMessage {
	switch {
	case text == "true", text == "false", text == "null",
		text != "" && strings.ContainsRune("-0123456789", rune(text[0])) && json.Valid([]byte(text)):
		return json.RawMessage(text)
	}
	quoted, _ := json.Marshal(text)
	return quoted
}

// jsonOf is JSON that is given, or stands in the file behind an @.
func jsonOf(text string) (json.RawMessage, error) {
	data := []byte(text)
	path, isFile := strings.CutPrefix(text, "@")
	if isFile {
		var err error
		if data, err = os.ReadFile(path); err != nil {
			return nil, err
		}
	}
	var b bytes.Buffer
	if err := json.Compact(&b, bytes.TrimPrefix(data, []byte("\xef\xbb\xbf"))); err != nil {
		if isFile {
			return nil, fmt.Errorf("%s is not valid JSON: %w", path, err)
		}
		return nil, fmt.Errorf("not valid JSON: %w: quote a text, or use --set", err)
	}
	return b.Bytes(), nil
}
