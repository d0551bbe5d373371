package batch

import (
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"github.com/llmqueue/llmqueue/cmd/llmq/internal/idset"
	"github.com/llmqueue/llmqueue/cmd/llmq/internal/results"
)

// only knows the failed requests that are to be retried: those whose latest failure has one
// of the codes. nil knows all.
type only struct {
	codes []string
	ids   *idset.Set // 1: retry it
	seen  map[string]bool
}

func newOnly(codes []string, dir string) *only {
	if len(codes) == 0 {
		return nil
	}
	return &only{codes, idset.New(filepath.Join(dir, "only")), map[string]bool{}}
}

// note takes in a record, the later one of an id after the earlier one.
func (o *only) note(rec *results.Record) error {
	if o == nil {
		return nil
	}
	var chosen uint64
	if rec.Error != nil {
		o.seen[rec.Error.Code] = true
		if o.matches(rec.Error.Code) {
			chosen = 1
		}
	}
	return o.ids.Put(rec.CustomID, chosen)
}

// matches reports whether a code is one of those that are wanted; http_5xx is all from
// http_500 to http_599.
func (o *only) matches(code string) bool {
	return slices.ContainsFunc(o.codes, func(want string) bool {
		class, ok := strings.CutSuffix(want, "xx")
		return want == code || ok && strings.HasPrefix(code, class) && len(code) == len(want)
	})
}

// chooses reports whether a failed request is to be retried.
func (o *only) chooses(id string) (bool, error) {
	if o == nil {
		return true, nil
	}
	v, _, err := o.ids.Get(id)
	return v == 1, err
}

// others tells which codes there are instead.
func (o *only) others() string {
	return strings.Join(slices.Sorted(maps.Keys(o.seen)), ", ")
}

func (o *only) close() error {
	if o == nil {
		return nil
	}
	return o.ids.Close()
}
