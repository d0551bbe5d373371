package cycle

import (
	"testing"

	"github.com/stretchr/testify/assert"
)

func TestFind(t *testing.T) {
	for _, c := range []struct {
		points map[string][]string
		want   []string
	}{
		{map[string][]string{}, nil},
		{map[string][]string{"a": {"b", "c"}, "b": {"c"}, "c": nil}, nil},
		{map[string][]string{"a": {"a"}}, []string{"a", "a"}},
		{map[string][]string{"a": {"b"}, "b": {"c"}, "c": {"b"}}, []string{"b", "c", "b"}},
		{map[string][]string{"a": {"nobody"}}, nil},
	} {
		asked := map[string]int{}
		got := Find([]string{"a", "b", "c"}, func(name string) []string {
			asked[name]++
			return c.points[name]
		})
		assert.Equal(t, c.want, got, "%v", c.points)
		for name, n := range asked {
			assert.Equal(t, 1, n, "%s is asked again", name)
		}
	}
}
