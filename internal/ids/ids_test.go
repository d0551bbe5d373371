package ids

import (
	"math"
	"strconv"
	"testing"

	"github.com/stretchr/testify/assert"
)

func TestIDsAreReadAsTheyWereWritten(t *testing.T) {
	const prefix = "abcdefgh-"
	var from []byte
	written := map[string]uint64{}
	for shift := range 64 {
		for _, seq := range []uint64{1 << shift, 1<<shift - 1, math.MaxUint64 >> shift} {
			handle := uint32(seq>>7) ^ uint32(seq)
			id := New(prefix, seq, handle)
			assert.Equal(t, prefix+strconv.FormatUint(seq, 32)+"-"+strconv.FormatUint(uint64(handle), 32), id)
			cut := Cut(&from, prefix, seq, handle)
			assert.Equal(t, id, cut)
			written[cut] = seq
			gotSeq, gotHandle, ok := Parse(prefix, id)
			assert.True(t, ok)
			assert.Equal(t, seq, gotSeq)
			assert.Equal(t, handle, gotHandle)
		}
	}
	for id, seq := range written {
		got, _, ok := Parse(prefix, id)
		assert.True(t, ok && got == seq, "%s was overwritten by a later one", id)
	}
}

func TestParseRefusesWhatNewDoesNotWrite(t *testing.T) {
	const prefix = "abcdefgh-"
	for _, id := range []string{
		"", "x", prefix, prefix + "1", prefix + "-", prefix + "1-", prefix + "-1", "bbcdefgh-1-1", "1-1",
		prefix + "01-1", prefix + "1-01", prefix + "+1-1", prefix + "A-1", prefix + "w-1", prefix + "1-1-1", prefix + "1-1 ",
		prefix + "1-4000000", prefix + "g000000000000-1",
	} {
		_, _, ok := Parse(prefix, id)
		assert.False(t, ok, id)
	}
}

func TestIDsCostLittle(t *testing.T) {
	var from []byte
	assert.Less(t, testing.AllocsPerRun(1000, func() { Cut(&from, "abcdefgh-", 1<<40, 1<<20) }), 0.1, "a block serves many")
}
