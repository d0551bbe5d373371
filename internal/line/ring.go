package line

// minRing and keepRing are the capacities that a ring starts with and below
// which it does not shrink. Both are powers of two.
const (
	minRing  = 4
	keepRing = 16
)

// A ring is the queue of one tenant: handles in order of arrival. Each has a
// ticket, and the ticket leads to its slot at once, so that a request can leave
// from the middle: its slot is then marked as gone and skipped later. The first
// slot and the last are never gone, and no more are gone than are there, or than
// keepRing.
type ring struct {
	slots      []uint32 // by ticket modulo its length, which is a power of two
	head, tail uint32   // the first ticket, and the one after the last; they wrap
	live       int      // handles in the ring, those gone not counted
}

// span returns how many tickets the ring covers, those gone included.
func (r *ring) span() int { return int(r.tail - r.head) }

// at returns the slot of a ticket.
func (r *ring) at(ticket uint32) *uint32 {
	return &r.slots[ticket&uint32(len(r.slots)-1)]
}

// first returns the handle that came first. The ring must not be empty.
func (r *ring) first() uint32 { return *r.at(r.head) }

// push adds h at the end and returns its ticket.
func (r *ring) push(h uint32) (ticket uint32) {
	if r.span() == len(r.slots) {
		r.resize(max(minRing, 2*len(r.slots)))
	}
	ticket = r.tail
	*r.at(ticket) = h
	r.tail++
	r.live++
	return ticket
}

// pop removes and returns the handle that came first. The ring must not be
// empty. What remains may get new tickets; see remove.
func (r *ring) pop(places []uint32) (h uint32) {
	h = r.first()
	r.head++
	r.live--
	r.tidy(places)
	return h
}

// remove takes out the handle with that ticket. What remains may get new
// tickets, which it writes to places, indexed by handle.
func (r *ring) remove(ticket uint32, places []uint32) {
	*r.at(ticket) = gone
	r.live--
	r.tidy(places)
}

// tidy drops the slots at both ends that are gone, closes the gaps between them
// when they are more than what remains, and gives memory back.
func (r *ring) tidy(places []uint32) {
	if r.live != r.span() {
		for r.head != r.tail && *r.at(r.head) == gone {
			r.head++
		}
		for r.head != r.tail && *r.at(r.tail - 1) == gone {
			r.tail--
		}
		if r.span() > keepRing && 2*r.live < r.span() {
			r.compact(places)
		}
	}
	if len(r.slots) > keepRing && r.span() <= len(r.slots)/8 {
		r.shrink()
	}
}

// compact closes the gaps. It costs one step for each slot, and more than half
// of them are gone: the removals that left them pay for it.
func (r *ring) compact(places []uint32) {
	to := r.head
	for from := r.head; from != r.tail; from++ {
		h := *r.at(from)
		if h == gone {
			continue
		}
		*r.at(to) = h
		places[h] = to
		to++
	}
	r.tail = to
}

// shrink halves a ring that is mostly empty, as often as it takes.
func (r *ring) shrink() {
	n := len(r.slots)
	for n > keepRing && r.span() <= n/8 {
		n /= 2
	}
	if n < len(r.slots) {
		r.resize(n)
	}
}

// resize moves the slots to a ring of n, a power of two. Tickets stay.
func (r *ring) resize(n int) {
	slots := make([]uint32, n)
	for t := r.head; t != r.tail; t++ {
		slots[t&uint32(n-1)] = *r.at(t)
	}
	r.slots = slots
}

// rank returns the place of a ticket among those still there, from 1. Without a
// gap that takes no counting, otherwise it counts from the nearer end.
func (r *ring) rank(ticket uint32) int {
	ahead, behind := int(ticket-r.head), int(r.tail-ticket)
	if r.live == r.span() {
		return ahead + 1
	}
	if ahead < behind {
		return r.present(r.head, ticket) + 1
	}
	return r.live - r.present(ticket+1, r.tail)
}

// present counts the tickets in [from, to) that are not gone.
func (r *ring) present(from, to uint32) (n int) {
	for t := from; t != to; t++ {
		if *r.at(t) != gone {
			n++
		}
	}
	return n
}
