package binsize

import "testing"

// Programs of one pair of types and of nine build, and the second one is larger.
func TestOf(t *testing.T) {
	one, err := Of(t.Context(), 1)
	if err != nil {
		t.Fatal(err)
	}
	nine, err := Of(t.Context(), 9)
	if err != nil {
		t.Fatal(err)
	}
	if one < 1_000_000 || nine <= one {
		t.Errorf("%d bytes with one pair of types, %d with nine", one, nine)
	}
}

// BenchmarkPairOfTypes is the binary size that each further pair of types adds: the
// difference between nine pairs and one, by eight.
func BenchmarkPairOfTypes(b *testing.B) {
	var one, nine int64
	for b.Loop() {
		var err error
		if one, err = Of(b.Context(), 1); err != nil {
			b.Fatal(err)
		}
		if nine, err = Of(b.Context(), 9); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(float64(one)/1e6, "one-pair-MB")
	b.ReportMetric(float64(nine-one)/8/1e6, "MB/pair")
}
