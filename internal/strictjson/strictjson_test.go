package strictjson

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestFieldsAreStrict(t *testing.T) {
	for _, c := range []struct{ data, want string }{
		{`[1]`, `want an object with a, b, got [1]`},
		{`null`, `want an object with a, b, got null`},
		{`{"a":1,"z":2,"c":3}`, `c: unknown field, use a, b`},
		{`{"a":"x"}`, `a: want a whole number, got "x"`},
		{`{"b":1}`, ``},
	} {
		n := 7
		fields, err := Fields([]byte(c.data), "a", "b")
		if err == nil {
			err = fields.Read("a", &n, "a whole number")
		}
		if c.want == "" {
			require.NoError(t, err)
			assert.Equal(t, 7, n, "a field that is not there changes nothing")
		} else {
			assert.EqualError(t, err, c.want)
		}
	}
}

func TestPeriods(t *testing.T) {
	for data, want := range map[string]time.Duration{
		`{}`: 0, `{"p":null}`: 0, `{"p":"60s"}`: time.Minute, `{"p":60}`: time.Minute, `{"p":0.5}`: time.Second / 2,
	} {
		fields, err := Fields([]byte(data), "p")
		require.NoError(t, err)
		got, err := fields.ReadPeriod("p")
		require.NoError(t, err, data)
		assert.Equal(t, want, got, data)
	}
	for data, want := range map[string]string{
		`{"p":"soon"}`: `p: "soon" is no positive duration, give a string like "60s" or a number of seconds`,
		`{"p":"-1s"}`:  `p: "-1s" is no positive duration, give a string like "60s" or a number of seconds`,
		`{"p":0}`:      `p: 0 is no positive number of seconds, give a string like "60s" or a number of seconds`,
		`{"p":1e12}`:   `p: 1e+12 is no positive number of seconds, give a string like "60s" or a number of seconds`,
		`{"p":[1]}`:    `p: [1] is neither, give a string like "60s" or a number of seconds`,
	} {
		fields, err := Fields([]byte(data), "p")
		require.NoError(t, err)
		_, err = fields.ReadPeriod("p")
		assert.EqualError(t, err, want)
	}
	out, err := json.Marshal(Period(time.Minute))
	require.NoError(t, err)
	assert.Equal(t, `"1m0s"`, string(out))
}
