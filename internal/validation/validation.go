// Package validation checks values by their `validate` tags, and the tags themselves before
// the first value comes.
package validation

import (
	"errors"
	"fmt"
	"reflect"
	"strings"

	"github.com/go-playground/validator/v10"
)

// Check checks the value that a pointer points at.
type Check func(pointer reflect.Value) error

// New returns a check of values of a type, whose errors wrap sentinel: safe for concurrent use,
// and nil when the type has no tags. A nil v means one with WithRequiredStructEnabled. A tag
// that v does not know, or that does not suit its field, is an error.
func New(v *validator.Validate, typ reflect.Type, sentinel error) (Check, error) {
	base := typ
	for base.Kind() == reflect.Pointer {
		base = base.Elem()
	}
	if base.Kind() != reflect.Struct {
		return nil, nil
	}
	tagged := map[reflect.Type]bool{}
	collectTagged(base, map[reflect.Type]bool{}, tagged)
	if len(tagged) == 0 {
		return nil, nil
	}
	if v == nil {
		v = validator.New(validator.WithRequiredStructEnabled())
	}
	for t := range tagged {
		if err := checkTags(v, t); err != nil {
			return nil, err
		}
	}
	return func(pointer reflect.Value) (err error) {
		// The validator panics on a tag that does not suit its field; what checkTags could
		// not see must not end the program either.
		defer func() {
			if p := recover(); p != nil {
				err = fmt.Errorf("%w: a validate tag of %v is wrong: %v", sentinel, typ, p)
			}
		}()
		value := pointer.Elem()
		for value.Kind() == reflect.Pointer {
			if value.IsNil() {
				return fmt.Errorf("%w: %v is nil", sentinel, typ)
			}
			value = value.Elem()
		}
		if err := v.Struct(value.Interface()); err != nil {
			return &brokenRules{sentinel, err}
		}
		return nil
	}, nil
}

// brokenRules says in one line which fields break which rules; errors.As finds the validator's
// own validator.ValidationErrors in it.
type brokenRules struct{ sentinel, err error }

func (e *brokenRules) Unwrap() []error { return []error{e.sentinel, e.err} }

func (e *brokenRules) Error() string {
	var fields validator.ValidationErrors
	if !errors.As(e.err, &fields) {
		return fmt.Sprintf("%v: %v", e.sentinel, e.err)
	}
	broken := make([]string, len(fields))
	for i, f := range fields {
		rule := f.Tag()
		if f.Param() != "" {
			rule += "=" + f.Param()
		}
		broken[i] = fmt.Sprintf("%s must satisfy %q", f.Namespace(), rule)
	}
	return fmt.Sprintf("%v: %s", e.sentinel, strings.Join(broken, ", "))
}

// collectTagged finds the struct types reachable from t that carry validate tags.
func collectTagged(t reflect.Type, seen, tagged map[reflect.Type]bool) {
	switch t.Kind() {
	case reflect.Pointer, reflect.Slice, reflect.Array:
		collectTagged(t.Elem(), seen, tagged)
		return
	case reflect.Map:
		collectTagged(t.Key(), seen, tagged)
		collectTagged(t.Elem(), seen, tagged)
		return
	case reflect.Struct:
	default:
		return
	}
	if seen[t] {
		return
	}
	seen[t] = true
	for f := range structFields(t) {
		if tag := f.Tag.Get("validate"); tag != "" && tag != "-" {
			tagged[t] = true
		}
		collectTagged(f.Type, seen, tagged)
	}
}

func structFields(t reflect.Type) func(yield func(reflect.StructField) bool) {
	return func(yield func(reflect.StructField) bool) {
		for i := range t.NumField() {
			if f := t.Field(i); (f.IsExported() || f.Anonymous) && !yield(f) {
				return
			}
		}
	}
}

// checkTags makes the validator read every tag of t, and run each rule on a sample
// value, so that a wrong one is found before the first request.
func checkTags(v *validator.Validate, t reflect.Type) error {
	if err := try(func() { _ = v.Struct(reflect.New(t).Interface()) }); err != nil {
		return fmt.Errorf("%v: %w", t, err)
	}
	for f := range structFields(t) {
		typ, tag := f.Type, f.Tag.Get("validate")
		if tag == "-" {
			continue
		}
		for rules := range strings.SplitSeq(tag, ",") {
			if rules == "dive" {
				if k := typ.Kind(); k == reflect.Slice || k == reflect.Array || k == reflect.Map {
					typ = typ.Elem()
				}
				continue
			}
			if rules == "keys" || rules == "endkeys" {
				break // keys have another type; the recover in the check is their net
			}
			for rule := range strings.SplitSeq(rules, "|") {
				if !standsAlone(rule) {
					continue
				}
				if err := try(func() { _ = v.Var(sample(typ).Interface(), rule) }); err != nil {
					return fmt.Errorf("%v.%s: validate tag %q: %w", t, f.Name, rule, err)
				}
			}
		}
	}
	return nil
}

// standsAlone reports whether a rule can be tried on a value without its struct.
func standsAlone(rule string) bool {
	name, _, _ := strings.Cut(rule, "=")
	for _, part := range []string{"field", "required_", "excluded_", "skip_unless", "omit", "structonly", "nostructlevel", "isdefault"} {
		if strings.Contains(name, part) {
			return false
		}
	}
	return name != ""
}

// sample is a value of t that is not its zero value where that is easy.
func sample(t reflect.Type) reflect.Value {
	v := reflect.New(t).Elem()
	switch t.Kind() {
	case reflect.String:
		v.SetString("a")
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		v.SetInt(1)
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		v.SetUint(1)
	case reflect.Float32, reflect.Float64:
		v.SetFloat(1)
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Pointer:
		v.Set(reflect.New(t.Elem()))
		v.Elem().Set(sample(t.Elem()))
	case reflect.Slice:
		v.Set(reflect.MakeSlice(t, 1, 1))
	case reflect.Map:
		v.Set(reflect.MakeMap(t))
	}
	return v
}

// try runs f, whose panic is an error.
func try(f func()) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%v", p)
		}
	}()
	f()
	return nil
}
