package endpoint

// Accounting is what the provider charges a request: when it arrives, and when it has been
// answered. Without one it charges the estimate, and in the end what was used.
type Accounting interface {
	// Reserved is what n requests take at the start whose estimates come to estimate
	// together. meanOutput is the mean output of the attempts so far.
	Reserved(estimate Usage, n, meanOutput int64) Usage
	// Settled is what an attempt takes in the end that reserved so much and used so much.
	Settled(reserved, used Usage) Usage
}

// Settled is what an attempt is charged in the end.
func (e *Endpoint) Settled(reserved, used Usage) Usage {
	if e.accounting == nil {
		return used
	}
	return e.accounting.Settled(reserved, used)
}

// Accounts reports whether charges differ from estimates and usage.
func (e *Endpoint) Accounts() bool { return e.accounting != nil }

// RoundUp is f as a whole number, rounded up where the difference is no error of
// floating point.
func RoundUp(f float64) int64 {
	n := int64(f)
	if float64(n) < f-1e-6 {
		n++
	}
	return n
}
