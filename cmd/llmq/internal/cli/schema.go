package cli

import (
	"errors"
	"fmt"

	"github.com/spf13/pflag"

	"github.com/llmqueue/llmqueue/cmd/llmq/internal/batch"
	"github.com/llmqueue/llmqueue/cmd/llmq/internal/schema"
)

// schemaFlags say what an answer has to fit.
type schemaFlags struct {
	file  string
	reask int
}

func (f *schemaFlags) register(fs *pflag.FlagSet) {
	fs.StringVar(&f.file, "schema", "", "JSON schema `file` that the text of each answer has to fit")
	fs.IntVar(&f.reask, "reask", 1, "with --schema: how often a request is asked once more whose answer does not fit, with what it lacks")
}

func (f *schemaFlags) apply(c *batch.Config) (err error) {
	c.Reask = f.reask
	switch {
	case f.reask < 0 || f.reask > 100:
		return fmt.Errorf("--reask %d: want 0 to 100", f.reask)
	case f.file == "" && f.reask != 1:
		return errors.New("--reask goes with --schema")
	case f.file == "":
		return nil
	}
	if c.Schema, err = schema.Read(f.file); err != nil {
		return fmt.Errorf("--schema: %w", err)
	}
	return nil
}

// fitting tells what the schema did.
func fitting(s batch.Summary) (text string) {
	if s.Reasked > 0 {
		text = fmt.Sprintf("; %d asked once more for the schema", s.Reasked)
	}
	if s.Mismatched > 0 {
		text += fmt.Sprintf("; %d do not fit it", s.Mismatched)
	}
	return text
}
