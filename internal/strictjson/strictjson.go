// Package strictjson reads JSON objects whose every field is known, with errors that name the
// field and say what to write instead.
package strictjson

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"time"
)

// Errorf says what is wrong with one field, by the name it has in JSON.
func Errorf(field, format string, args ...any) error {
	return fmt.Errorf("%s: %s", field, fmt.Sprintf(format, args...))
}

// Object is an object's fields as they were written.
type Object map[string]json.RawMessage

// Fields splits an object into its fields and refuses names that are not known.
func Fields(data []byte, known ...string) (Object, error) {
	var fields Object
	if err := json.Unmarshal(data, &fields); err != nil || fields == nil {
		return nil, fmt.Errorf("want an object with %s, got %.40s", strings.Join(known, ", "), bytes.TrimSpace(data))
	}
	for _, name := range slices.Sorted(maps.Keys(fields)) {
		if !slices.Contains(known, name) {
			return nil, Errorf(name, "unknown field, use %s", strings.Join(known, ", "))
		}
	}
	return fields, nil
}

// Read puts a field into the variable that to points at, which stays as it is when there is no
// such field. want says in an error what belongs there.
func (o Object) Read(name string, to any, want string) error {
	raw, ok := o[name]
	if !ok {
		return nil
	}
	if err := json.Unmarshal(raw, to); err != nil {
		return Errorf(name, "want %s, got %.40s", want, raw)
	}
	return nil
}

// ReadPeriod reads a positive duration: a string like "60s" or a number of seconds. It is 0
// when there is no such field.
func (o Object) ReadPeriod(name string) (time.Duration, error) {
	const want = `a string like "60s" or a number of seconds`
	var v any
	if err := o.Read(name, &v, want); err != nil {
		return 0, err
	}
	bad := func(format string) (time.Duration, error) {
		return 0, Errorf(name, format+", give %s", v, want)
	}
	switch v := v.(type) {
	case nil:
		return 0, nil
	case string:
		d, err := time.ParseDuration(v)
		if err != nil || d <= 0 {
			return bad("%q is no positive duration")
		}
		return d, nil
	case float64:
		if ns := v * float64(time.Second); ns >= 1 && ns < math.MaxInt64 {
			return time.Duration(ns), nil
		}
		return bad("%v is no positive number of seconds")
	default:
		return bad("%v is neither")
	}
}

// Period is a duration that is written as ReadPeriod reads it: "1m0s".
type Period time.Duration

// MarshalJSON writes it.
func (d Period) MarshalJSON() ([]byte, error) { return json.Marshal(time.Duration(d).String()) }
