package paged

import (
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/llmqueue/llmqueue/internal/engine"
)

func TestTable(t *testing.T) {
	var table Table[string]
	const far = 3*engine.PageSize + 1
	assert.False(t, table.Has(far))
	table.Clear(far, true) // nothing was kept of it
	table.Grow(far)
	assert.True(t, table.Has(far))
	assert.False(t, table.Has(0), "only the page that is needed is there")
	at := table.At(far)
	*at, *table.At(far + 1) = "a", "b"
	table.Grow(0)
	table.Grow(9 * engine.PageSize)
	assert.Same(t, at, table.At(far), "a page never moves")
	table.Clear(far, false)
	assert.Empty(t, *at)
	assert.Equal(t, "b", *table.At(far + 1))
	table.Clear(far+1, true)
	assert.False(t, table.Has(far))
	table.Grow(far)
	assert.Empty(t, *table.At(far + 1), "a new page is empty")
}
