package line

import "math"

// A branch holds up to fanout priorities. One with fewer than fanout/4 is merged
// into a neighbor if both together leave a quarter of the room.
const fanout = 32

// Size is how much requests take together.
type Size struct {
	Requests int64
	Input    int64 // tokens
	Output   int64 // tokens
	Unsized  int64 // requests of unknown size, which Input and Output leave out
}

// A sum is what waits in one priority, or in several.
type sum struct {
	waiting int64
	size    Size // as booked
}

func (s *sum) add(d *sum) {
	s.waiting += d.waiting
	s.size.Requests += d.size.Requests
	s.size.Input += d.size.Input
	s.size.Output += d.size.Output
	s.size.Unsized += d.size.Unsized
}

func (s *sum) zero() bool { return s.waiting == 0 && s.size == Size{} }

func (s *sum) sub(d *sum) {
	s.waiting -= d.waiting
	s.size.Requests -= d.size.Requests
	s.size.Input -= d.size.Input
	s.size.Output -= d.size.Output
	s.size.Unsized -= d.size.Unsized
}

// A tree finds the level of a priority and sums over the priorities from one
// up, in a step for each branch on the way. It is a B+ tree in which every branch
// knows the sums below it. A priority is in it while its own sum is not zero, and
// the last one until another comes.
type tree struct {
	root *branch
	path []place // to the priority asked for last; empty when the tree has changed
	key  int     // that priority
}

type place struct {
	branch *branch
	i      int
}

type branch struct {
	n      int
	keys   [fanout]int // ascending; above the leaves, each at most the lowest priority below it
	sums   [fanout]sum
	levels [fanout]*level   // of a leaf; nil where nobody waits
	kids   *[fanout]*branch // nil for a leaf
}

// search returns the last place whose key is at most p, or -1.
func (n *branch) search(p int) int {
	lo, hi := 0, n.n
	for lo < hi {
		if mid := int(uint(lo+hi) / 2); n.keys[mid] <= p {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	return lo - 1
}

// add adds d to the sum of p. It returns where the level of p is kept until the
// next call, or nil when p has left because its sum is zero.
func (t *tree) add(p int, d *sum) **level {
	if len(t.path) == 0 || t.key != p {
		t.find(p)
	}
	for _, at := range t.path {
		at.branch.sums[at.i].add(d)
	}
	leaf := &t.path[len(t.path)-1]
	if leaf.branch.sums[leaf.i].zero() && (leaf.branch != t.root || t.root.n > 1) {
		t.remove(p)
		return nil
	}
	return &leaf.branch.levels[leaf.i]
}

// find makes path lead to p, which joins the tree with a sum of zero if it was
// not there.
func (t *tree) find(p int) {
	t.key, t.path = p, t.path[:0]
	n := t.root
	switch {
	case n == nil:
		n = new(branch)
		t.root = n
	case n.n == fanout:
		root := &branch{n: 1, kids: new([fanout]*branch)}
		root.keys[0], root.sums[0], root.kids[0] = n.keys[0], n.total(), n
		n, t.root = root, root
	case n.n == 1 && n.kids == nil && n.sums[0].zero():
		n.n = 0
	}
	for n.kids != nil {
		i := max(n.search(p), 0)
		if n.kids[i].n == fanout { // on the way down, so that there is room above
			if n.split(i); p >= n.keys[i+1] {
				i++
			}
		}
		n.keys[i] = min(n.keys[i], p)
		t.path = append(t.path, place{n, i})
		n = n.kids[i]
	}
	i := n.search(p)
	if i < 0 || n.keys[i] != p {
		i++
		n.open(i)
		n.keys[i], n.sums[i], n.levels[i] = p, sum{}, nil
	}
	t.path = append(t.path, place{n, i})
}

// from returns the sum over all priorities of at least p.
func (t *tree) from(p int) (s sum) {
	for n := t.root; n != nil; {
		i := n.search(p)
		for j := i + 1; j < n.n; j++ {
			s.add(&n.sums[j])
		}
		switch {
		case i < 0:
			return s
		case n.kids != nil:
			n = n.kids[i]
		default:
			if n.keys[i] == p {
				s.add(&n.sums[i])
			}
			return s
		}
	}
	return s
}

// last returns the highest level of at most p in which somebody waits, or nil.
func (t *tree) last(p int) *level {
	if t.root == nil {
		return nil
	}
	return t.root.last(p)
}

// below returns the highest level below p in which somebody waits, or nil.
func (t *tree) below(p int) *level {
	if p == math.MinInt {
		return nil
	}
	return t.last(p - 1)
}

func (n *branch) last(p int) *level {
	for i := n.search(p); i >= 0; i-- {
		if n.sums[i].waiting == 0 {
			continue
		}
		if n.kids == nil {
			return n.levels[i]
		}
		// Only below the first may all that wait be above p.
		if lv := n.kids[i].last(p); lv != nil {
			return lv
		}
	}
	return nil
}

// total returns the sum over a branch.
func (n *branch) total() (s sum) {
	for i := range n.n {
		s.add(&n.sums[i])
	}
	return s
}

// open makes room for one more at place i.
func (n *branch) open(i int) {
	if n.n++; i == n.n-1 {
		return
	}
	copy(n.keys[i+1:n.n], n.keys[i:])
	copy(n.sums[i+1:n.n], n.sums[i:])
	if n.kids != nil {
		copy(n.kids[i+1:n.n], n.kids[i:])
	} else {
		copy(n.levels[i+1:n.n], n.levels[i:])
	}
}

// close takes out what is at place i.
func (n *branch) close(i int) {
	if n.n--; i < n.n {
		copy(n.keys[i:n.n], n.keys[i+1:])
		copy(n.sums[i:n.n], n.sums[i+1:])
		if n.kids != nil {
			copy(n.kids[i:n.n], n.kids[i+1:])
		} else {
			copy(n.levels[i:n.n], n.levels[i+1:])
		}
	}
	if n.kids != nil {
		n.kids[n.n] = nil
	} else {
		n.levels[n.n] = nil
	}
}

// move appends what other holds from place i on, which other keeps.
func (n *branch) move(other *branch, i int) {
	copy(n.keys[n.n:], other.keys[i:other.n])
	copy(n.sums[n.n:], other.sums[i:other.n])
	if n.kids != nil {
		copy(n.kids[n.n:], other.kids[i:other.n])
	} else {
		copy(n.levels[n.n:], other.levels[i:other.n])
	}
	n.n += other.n - i
}

// split divides the full child at place i in two.
func (n *branch) split(i int) {
	const half = fanout / 2
	left, right := n.kids[i], new(branch)
	if left.kids != nil {
		right.kids = new([fanout]*branch)
	}
	right.move(left, half)
	left.n = half
	if left.kids != nil {
		clear(left.kids[half:])
	} else {
		clear(left.levels[half:])
	}
	moved := right.total()
	n.open(i + 1)
	n.keys[i+1], n.sums[i+1], n.kids[i+1] = right.keys[0], moved, right
	n.sums[i].sub(&moved)
}

// remove takes out p, which is in the tree and whose sum is zero.
func (t *tree) remove(p int) {
	t.path = t.path[:0]
	if t.root.kids == nil {
		t.root.close(t.root.search(p))
		return
	}
	t.root.remove(p)
	for t.root.kids != nil && t.root.n == 1 {
		t.root = t.root.kids[0]
	}
}

func (n *branch) remove(p int) {
	i := n.search(p)
	if n.kids == nil {
		n.close(i)
		return
	}
	n.kids[i].remove(p)
	fits := func(i int) bool {
		return i >= 0 && i+1 < n.n && n.kids[i].n+n.kids[i+1].n <= fanout*3/4
	}
	switch {
	case n.kids[i].n >= fanout/4:
	case fits(i):
		n.join(i)
	case fits(i - 1):
		n.join(i - 1)
	}
}

// join puts what the child after place i holds into the one there.
func (n *branch) join(i int) {
	n.kids[i].move(n.kids[i+1], 0)
	n.sums[i].add(&n.sums[i+1])
	n.close(i + 1)
}
