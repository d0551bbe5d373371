package llmredis

import (
	"net"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

// proxy forwards connections to a server until it is told to stop forwarding, as a
// network does that is cut: nothing is closed and nothing arrives.
type proxy struct {
	target string
	listen net.Listener

	mu    sync.Mutex
	cond  *sync.Cond
	stops bool
	over  bool
	conns []net.Conn
}

func newProxy(t testing.TB, target string) *proxy {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	p := &proxy{target: target, listen: l}
	p.cond = sync.NewCond(&p.mu)
	go func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", target)
			if err != nil {
				_ = in.Close()
				continue
			}
			p.mu.Lock()
			p.conns = append(p.conns, in, out)
			p.mu.Unlock()
			go p.forward(in, out)
			go p.forward(out, in)
		}
	}()
	t.Cleanup(func() {
		_ = l.Close()
		p.mu.Lock()
		defer p.mu.Unlock()
		p.over = true
		p.cond.Broadcast()
		for _, c := range p.conns {
			_ = c.Close()
		}
	})
	return p
}

func (p *proxy) address() string { return p.listen.Addr().String() }

func (p *proxy) forward(from, to net.Conn) {
	defer from.Close()
	defer to.Close()
	buf := make([]byte, 1<<16)
	for {
		n, err := from.Read(buf)
		if err != nil {
			return
		}
		p.mu.Lock()
		for p.stops && !p.over {
			p.cond.Wait()
		}
		p.mu.Unlock()
		if _, err := to.Write(buf[:n]); err != nil {
			return
		}
	}
}

// cut stops forwarding, or goes on.
func (p *proxy) cut(stops bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stops = stops
	p.cond.Broadcast()
}
