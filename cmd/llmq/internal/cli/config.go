package cli

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/spf13/pflag"
)

// modelConfig is what a config file says of a model.
type modelConfig struct {
	RPM        *int64 `yaml:"rpm"`
	TPM        *int64 `yaml:"tpm"`
	ITPM       *int64 `yaml:"itpm"`
	OTPM       *int64 `yaml:"otpm"`
	RPD        *int64 `yaml:"rpd"`
	TPD        *int64 `yaml:"tpd"`
	Accounting string `yaml:"accounting"`
}

func (m modelConfig) amounts() amounts {
	a := amounts{}
	for name, n := range map[string]*int64{"rpm": m.RPM, "tpm": m.TPM, "itpm": m.ITPM, "otpm": m.OTPM, "rpd": m.RPD, "tpd": m.TPD} {
		if n != nil {
			a[name] = n
		}
	}
	return a
}

// readConfig sets the flags that the config file names and the command line does not.
func (f *runFlags) readConfig(fs *pflag.FlagSet) error {
	if f.config == "" {
		return nil
	}
	data, err := os.ReadFile(f.config)
	if err != nil {
		return fmt.Errorf("--config: %w", err)
	}
	var values map[string]any
	if err := yaml.Unmarshal(data, &values); err != nil {
		return fmt.Errorf("%s:%s", f.config, firstLine(err))
	}
	for _, name := range slices.Sorted(maps.Keys(values)) {
		if name == "models" {
			var models struct {
				Models map[string]modelConfig `yaml:"models"`
			}
			raw, err := yaml.Marshal(map[string]any{"models": values["models"]})
			if err == nil {
				err = yaml.UnmarshalWithOptions(raw, &models, yaml.Strict())
			}
			if err != nil {
				_, what, _ := strings.Cut(firstLine(err), "] ")
				return fmt.Errorf("%s: models: %s: want MODEL: {rpm, tpm, itpm, otpm, rpd, tpd, accounting}", f.config, what)
			}
			f.models = models.Models
			continue
		}
		flag := fs.Lookup(name)
		switch {
		case name == "config" || name == "help" || flag == nil:
			return fmt.Errorf("%s: unknown setting %q: want a flag of llmq run by its name, or models", f.config, name)
		case flag.Changed:
			continue // the command line wins
		}
		list, ok := values[name].([]any)
		if !ok {
			list = []any{values[name]}
		}
		for _, v := range list {
			if err := fs.Set(name, fmt.Sprint(v)); err != nil {
				return fmt.Errorf("%s: %s: %w", f.config, name, err)
			}
		}
	}
	return nil
}

func firstLine(err error) string {
	first, _, _ := strings.Cut(strings.TrimSpace(yaml.FormatError(err, false, false)), "\n")
	return first
}
