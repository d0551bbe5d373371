package history

import (
	"slices"
	"testing"

	"github.com/stretchr/testify/assert"
)

func TestTheOldestGoFirst(t *testing.T) {
	for _, size := range []int{1, 15, 16, 17, 100} {
		h := History{Size: size, TTL: 10}
		assert.Zero(t, h.Expiry(), "of none")
		var want []uint32 // latest first
		for i := range uint32(3 * size) {
			if h.Full() {
				assert.Equal(t, want[len(want)-1], h.Pop())
				want = want[:len(want)-1]
			}
			h.Push(int64(i), i)
			want = slices.Insert(want, 0, i)
			assert.Equal(t, want, slices.Collect(h.Latest))
			assert.EqualValues(t, want[len(want)-1]+10, h.Expiry())
			assert.LessOrEqual(t, len(h.ring), max(16, size))
			if i%5 == 4 && len(want) > 0 {
				h.Pop()
				want = want[:len(want)-1]
			}
			if len(want) == 0 {
				assert.Zero(t, h.Expiry())
				want = nil
			}
		}
	}
}

func TestLatestMayBeLeft(t *testing.T) {
	h := History{Size: 3}
	h.Push(1, 1)
	h.Push(2, 2)
	for handle := range h.Latest {
		assert.EqualValues(t, 2, handle)
		break
	}
}
