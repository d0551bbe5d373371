package llmqueue

import (
	"context"
	"errors"
	"reflect"
	"runtime"
	"strings"
	"testing"

	"github.com/go-playground/validator/v10"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

type taggedMessage struct {
	Role string `validate:"oneof=user system"`
}

type taggedChat struct {
	Prompt   string                    `validate:"required,max=5"`
	Messages []taggedMessage           `validate:"dive"`
	Extra    map[string]*taggedMessage `validate:"dive,keys,max=3,endkeys,required"`
	Optional *taggedMessage
}

type taggedAnswer struct {
	Score int `validate:"min=0,max=10"`
}

// validated makes a queue whose processor returns what give returns, and counts.
func validated[P, T any](t testing.TB, give func(P) T, opts ...Option) (submit func(P) error, calls *int) {
	calls = new(int)
	q := newQueue(t, func(_ context.Context, r Request[P]) (T, error) {
		*calls++
		return give(r.Params), nil
	}, append([]Option{WithUnlimited()}, opts...)...)
	return func(p P) error {
		_, err := q.Submit(t.Context(), Request[P]{Params: p})
		return err
	}, calls
}

func TestParamsAreValidated(t *testing.T) {
	submit, calls := validated(t, func(taggedChat) int { return 1 })
	require.NoError(t, submit(taggedChat{Prompt: "hi", Messages: []taggedMessage{{"user"}}, Optional: &taggedMessage{"system"}}))
	for name, bad := range map[string]taggedChat{
		"missing":    {},
		"too long":   {Prompt: "123456"},
		"dive":       {Prompt: "hi", Messages: []taggedMessage{{"user"}, {"robot"}}},
		"map value":  {Prompt: "hi", Extra: map[string]*taggedMessage{"k": nil}},
		"map key":    {Prompt: "hi", Extra: map[string]*taggedMessage{"long key": {"user"}}},
		"in pointer": {Prompt: "hi", Optional: &taggedMessage{"robot"}},
	} {
		err := submit(bad)
		require.ErrorIs(t, err, ErrInvalidParams, name)
		var fields validator.ValidationErrors
		assert.True(t, errors.As(err, &fields), name)
	}
	assert.Equal(t, 1, *calls, "refused params never reach the processor")

	submit, _ = validated(t, func(taggedChat) int { return 1 }, WithoutValidation())
	assert.NoError(t, submit(taggedChat{}))
}

func TestPointerParamsAreValidated(t *testing.T) {
	submit, calls := validated(t, func(*taggedChat) int { return 1 })
	require.NoError(t, submit(&taggedChat{Prompt: "hi"}))
	assert.ErrorIs(t, submit(&taggedChat{}), ErrInvalidParams)
	assert.ErrorIs(t, submit(nil), ErrInvalidParams)
	assert.Equal(t, 1, *calls)

	twice, _ := validated(t, func(**taggedChat) int { return 1 })
	p := &taggedChat{}
	assert.ErrorIs(t, twice(&p), ErrInvalidParams)
	p = nil
	assert.ErrorIs(t, twice(&p), ErrInvalidParams)

	type untagged struct{ A int }
	free, _ := validated(t, func(*untagged) int { return 1 })
	assert.NoError(t, free(nil), "without tags a nil pointer is the processor's business")
}

func TestResultsAreValidated(t *testing.T) {
	submit, _ := validated(t, func(n int) taggedAnswer { return taggedAnswer{n} })
	require.NoError(t, submit(10))
	err := submit(11)
	require.ErrorIs(t, err, ErrInvalidResult)
	var pe *ProcessingError
	assert.False(t, errors.As(err, &pe) && errors.Is(err, ErrInvalidParams))

	pointers, _ := validated(t, func(n int) *taggedAnswer {
		if n < 0 {
			return nil
		}
		return &taggedAnswer{n}
	})
	require.NoError(t, pointers(3))
	assert.ErrorIs(t, pointers(99), ErrInvalidResult)
	assert.ErrorIs(t, pointers(-1), ErrInvalidResult)
}

// The usage of a call whose result is invalid was real: it is settled first.
func TestUsageOfAnInvalidResultIsSettled(t *testing.T) {
	q := newQueue(t, func(ctx context.Context, r Request[int]) (taggedAnswer, error) {
		ReportUsage(ctx, Usage{InputTokens: 70})
		return taggedAnswer{99}, nil
	}, WithLimits(TPM(1000)))
	r, err := q.Submit(t.Context(), Request[int]{Estimate: Usage{InputTokens: 10}})
	require.ErrorIs(t, err, ErrInvalidResult)
	assert.Equal(t, StatusFailed, r.Status)
	assert.Zero(t, r.Result)
	assert.EqualValues(t, 70, r.Usage.InputTokens)
	assert.EqualValues(t, 70, q.Info().Limits[0].Used)
}

type badTagName struct {
	A string `validate:"no_such_rule"`
}
type badTagType struct {
	A bool `validate:"gt=5"`
}
type badTagParam struct {
	A int `validate:"max=many"`
}
type badTagDive struct {
	A int `validate:"dive,required"`
}
type badTagKeys struct {
	A map[string]int `validate:"keys,required"`
}
type badTagNested struct{ In []map[string]*badTagName }
type badTagEmpty struct {
	A string `validate:"required,,max=3"`
}
type badTagLater struct {
	A string `validate:"required,min=1,no_such_rule"`
}
type badTagAlternative struct {
	A string `validate:"email|no_such_rule"`
}
type badTagElement struct {
	A []string `validate:"dive,no_such_rule"`
}
type badTagTwoDeep struct {
	A [][]bool `validate:"dive,dive,gt=5"`
}

func refusesType[V any](t *testing.T) {
	t.Helper()
	name := strings.TrimPrefix(typeName[V](), "llmqueue.")
	var err error
	require.NotPanics(t, func() {
		_, err = NewQueue("m", func(context.Context, Request[V]) (int, error) { return 0, nil }, WithUnlimited())
	}, name)
	assert.ErrorIs(t, err, ErrInvalidConfiguration, "params %s", name)
	require.NotPanics(t, func() {
		_, err = NewQueue("m", func(context.Context, Request[int]) (v V, err error) { return v, nil }, WithUnlimited())
	}, name)
	assert.ErrorIs(t, err, ErrInvalidConfiguration, "results %s", name)
	q, err := NewQueue("m", func(context.Context, Request[V]) (int, error) { return 0, nil }, WithUnlimited(), WithoutValidation())
	require.NoError(t, err, name)
	assert.NoError(t, q.Shutdown(t.Context()))
}

// The validator panics on a bad tag when it first meets it; a queue says so before
// its first request.
func TestBadTagsAreInvalidConfiguration(t *testing.T) {
	refusesType[badTagName](t)
	refusesType[*badTagName](t)
	refusesType[badTagType](t)
	refusesType[badTagParam](t)
	refusesType[badTagDive](t)
	refusesType[badTagKeys](t)
	refusesType[badTagNested](t)
	refusesType[badTagEmpty](t)
	refusesType[badTagLater](t)
	refusesType[badTagAlternative](t)
	refusesType[badTagElement](t)
	refusesType[badTagTwoDeep](t)
}

type manyGoodTags struct {
	Email    string           `validate:"omitempty,email"`
	URL      *string          `validate:"omitempty,url"`
	Same     string           `validate:"eqfield=Email"`
	When     string           `validate:"required_with=Email,omitempty,datetime=2006-01-02"`
	Choice   string           `validate:"omitempty,oneof='a b' c"`
	Pattern  string           `validate:"omitempty,startswith=x|endswith=y"`
	Comma    string           `validate:"omitempty,excludesall=0x2C"`
	Items    []string         `validate:"omitempty,min=1,max=3,unique,dive,required,max=9"`
	Matrix   [][]int          `validate:"omitempty,dive,dive,gte=0"`
	ByName   map[string][]int `validate:"omitempty,dive,keys,alpha,endkeys,min=1,dive,gt=0"`
	Any      any              `validate:"omitempty"`
	Number   float64          `validate:"gte=-1.5,lte=1.5"`
	Array    [2]int           `validate:"dive,max=5"`
	Fn       func()           `validate:"-"`
	Self     *manyGoodTags
	hidden   int `validate:"min=5"`
	Embedded manyGoodEmbedded
}
type manyGoodEmbedded struct {
	B uint8 `validate:"lt=200"`
}

func TestGoodTagsAreAccepted(t *testing.T) {
	submit, _ := validated(t, func(manyGoodTags) int { return 1 })
	assert.NoError(t, submit(manyGoodTags{}))
	assert.ErrorIs(t, submit(manyGoodTags{Embedded: manyGoodEmbedded{B: 201}}), ErrInvalidParams)
	assert.ErrorIs(t, submit(manyGoodTags{Self: &manyGoodTags{Number: 9}}), ErrInvalidParams)
	assert.Zero(t, manyGoodTags{}.hidden)
}

func TestOwnValidator(t *testing.T) {
	type code struct {
		A string `validate:"airport"`
	}
	_, err := NewQueue("m", func(context.Context, Request[code]) (int, error) { return 0, nil }, WithUnlimited())
	require.ErrorIs(t, err, ErrInvalidConfiguration)
	v := validator.New()
	require.NoError(t, v.RegisterValidation("airport", func(fl validator.FieldLevel) bool { return len(fl.Field().String()) == 3 }))
	submit, _ := validated(t, func(code) int { return 1 }, WithoutValidation(), WithValidator(v))
	assert.NoError(t, submit(code{"MUC"}))
	assert.ErrorIs(t, submit(code{"München"}), ErrInvalidParams)
}

// A validation of the user's own that panics refuses the request.
func TestPanickingValidationRefuses(t *testing.T) {
	type code struct {
		A string `validate:"fragile"`
	}
	v := validator.New()
	require.NoError(t, v.RegisterValidation("fragile", func(fl validator.FieldLevel) bool {
		if fl.Field().String() == "boom" {
			panic("fragile")
		}
		return true
	}))
	submit, _ := validated(t, func(code) int { return 1 }, WithValidator(v))
	assert.NoError(t, submit(code{"ok"}))
	assert.ErrorIs(t, submit(code{"boom"}), ErrInvalidParams)
}

// Types without tags cost nothing.
func TestNoTagsNoCost(t *testing.T) {
	type plain struct {
		A, B string
		C    []map[string]*int
		Next *plain
	}
	with := newQueue(t, func(_ context.Context, r Request[plain]) (plain, error) { return r.Params, nil }, WithUnlimited())
	without := newQueue(t, func(_ context.Context, r Request[plain]) (plain, error) { return r.Params, nil }, WithUnlimited(), WithoutValidation())
	assert.Nil(t, with.checkParams)
	assert.Nil(t, with.checkResult)
	if raceEnabled {
		t.Skip("allocations differ under the race detector")
	}
	allocs := func(q *Queue[plain, plain]) float64 {
		var p plain
		runtime.GC()
		return testing.AllocsPerRun(2000, func() {
			if _, err := q.Do(context.Background(), p); err != nil {
				t.Error(err)
			}
		})
	}
	assert.LessOrEqual(t, allocs(with), allocs(without))
}

func typeName[V any]() string { return reflect.TypeFor[V]().String() }
