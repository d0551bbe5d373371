package validation

import (
	"errors"
	"reflect"
	"testing"

	"github.com/go-playground/validator/v10"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

var errBad = errors.New("bad")

type inner struct {
	Next *inner
	Name string `validate:"required"`
}

type outer struct {
	Age   int     `validate:"min=1"`
	Inner []inner `validate:"dive"`
}

func checkOf[T any](t *testing.T) Check {
	t.Helper()
	check, err := New(nil, reflect.TypeFor[T](), errBad)
	require.NoError(t, err)
	return check
}

func TestWithoutTagsThereIsNothingToCheck(t *testing.T) {
	assert.Nil(t, checkOf[int](t))
	assert.Nil(t, checkOf[[]outer](t), "the validator checks structs")
	assert.Nil(t, checkOf[struct {
		A int `validate:"-"`
	}](t))
	assert.NotNil(t, checkOf[struct{ Far map[string][]*inner }](t), "a tag may be deep inside")
}

func TestErrorsNameFieldAndRule(t *testing.T) {
	check := checkOf[*outer](t)
	value := &outer{Age: 1, Inner: []inner{{Name: "a"}}}
	assert.NoError(t, check(reflect.ValueOf(&value)))
	value = &outer{Inner: []inner{{}}}
	err := check(reflect.ValueOf(&value))
	assert.EqualError(t, err, `bad: outer.Age must satisfy "min=1", outer.Inner[0].Name must satisfy "required"`)
	assert.ErrorIs(t, err, errBad)
	assert.ErrorAs(t, err, new(validator.ValidationErrors))
	value = nil
	assert.EqualError(t, check(reflect.ValueOf(&value)), "bad: *validation.outer is nil")
}

func TestWrongTagsAreFoundBeforeTheFirstValue(t *testing.T) {
	for _, typ := range []reflect.Type{
		reflect.TypeFor[struct {
			A int `validate:"nosuchrule"`
		}](),
		reflect.TypeFor[struct {
			A *bool `validate:"omitempty,email|max=3"`
		}](),
		reflect.TypeFor[struct {
			A []chan int `validate:"dive,len=3"`
		}](),
	} {
		_, err := New(nil, typ, errBad)
		assert.Error(t, err, "%v", typ)
	}
}
