package plan

import (
	"math"
	"math/bits"
	"slices"
	"time"
)

// spread sums up durations, in memory that does not grow with their number.
type spread struct {
	counts map[int64]int64 // by bucket, 256 to each doubling
	n      int64
	sum    float64
	most   int64
}

func (s *spread) add(d int64) {
	shift := max(bits.Len64(uint64(d))-9, 0)
	s.counts[int64(shift)<<9|d>>shift]++
	s.n++
	s.sum += float64(d)
	s.most = max(s.most, d)
}

func (s *spread) summary() (w Wait) {
	if s.n == 0 {
		return w
	}
	buckets := make([]int64, 0, len(s.counts))
	for b := range s.counts {
		buckets = append(buckets, b)
	}
	slices.Sort(buckets)
	quantile := func(share float64) time.Duration {
		rank := int64(math.Ceil(share * float64(s.n)))
		for _, b := range buckets {
			if rank -= s.counts[b]; rank <= 0 {
				return time.Duration(min((b&511+1)<<(b>>9)-1, s.most))
			}
		}
		return time.Duration(s.most)
	}
	return Wait{time.Duration(s.sum / float64(s.n)), quantile(0.5), quantile(0.95), time.Duration(s.most)}
}
