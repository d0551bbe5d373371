package llmtest

import (
	"context"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"sync"
	"testing"
)

// A Server is a simulated provider. [NewServer] and [Start] make one. Its
// methods are safe for concurrent use.
type Server struct {
	config   config
	provider Provider
	dialect  dialect
	enforcer *enforcer
	slots    slots
	store    batchStore
	url      string
	client   *http.Client
	http     *http.Server
	close    func()
}

// NewServer starts a server for a test and closes it when the test ends. The
// test fails at once if the limits or options are invalid.
func NewServer(tb testing.TB, p Provider, opts ...Option) *Server {
	tb.Helper()
	s, err := Start(p, opts...)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(s.Close)
	return s
}

// Start starts a server for a program, which must Close it. It returns an error
// if a limit or an option is invalid or no port can be had.
func Start(p Provider, opts ...Option) (*Server, error) {
	if p.dialect == nil {
		return nil, fmt.Errorf("llmtest: the zero Provider serves nothing: use OpenAI or another one")
	}
	c, err := newConfig(p, opts)
	if err != nil {
		return nil, err
	}
	s := &Server{config: c, provider: p, slots: newSlots(c.load)}
	s.enforcer = newEnforcer(&s.config)
	s.dialect = p.dialect(s)
	transport := &http.Transport{MaxIdleConnsPerHost: maxIdleConns}
	var listener net.Listener
	if c.inMemory {
		pipes := newPipeListener()
		listener, transport.DialContext = pipes, pipes.dial
		s.url = "http://llmtest.invalid" + p.path
	} else {
		if listener, err = net.Listen("tcp", c.address); err != nil {
			return nil, fmt.Errorf("llmtest: the server cannot listen: %w", err)
		}
		s.url = "http://" + listener.Addr().String() + p.path
	}
	s.client = &http.Client{Transport: transport}
	s.serve(http.HandlerFunc(s.handle), listener)
	return s, nil
}

// maxIdleConns lets as many clients at once as a test is likely to have keep
// their connections. The default of 2 would dial for most requests.
const maxIdleConns = 4096

// serve starts to serve and prepares Close.
func (s *Server) serve(h http.Handler, l net.Listener) {
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	s.http = &http.Server{
		Handler:     h,
		BaseContext: func(net.Listener) context.Context { return ctx },
		ErrorLog:    log.New(io.Discard, "", 0), // clients that go away are no news
		ConnState: func(c net.Conn, state http.ConnState) {
			switch state {
			case http.StateNew: // set by Serve's goroutine, which wg counts too
				wg.Add(1)
				if ctx.Err() != nil {
					_ = c.Close() // accepted too late for http.Server.Close to know of it
				}
			case http.StateClosed, http.StateHijacked:
				wg.Done()
			}
		},
	}
	wg.Go(func() { _ = s.http.Serve(l) })
	s.close = sync.OnceFunc(func() {
		cancel()
		_ = s.http.Close()
		wg.Wait()
	})
}

// URL returns the base URL to configure the provider's SDK with, such as
// "http://127.0.0.1:41235/v1" for OpenAI: each provider's SDK wants another
// path in it. An in-memory server's leads nowhere without [Server.Client].
func (s *Server) URL() string { return s.url }

// Client returns the client whose connections reach the server. It is always
// the same one, and the only one that reaches an in-memory server.
func (s *Server) Client() *http.Client { return s.client }

// Close stops the server: it breaks off what is running, and waits until every
// goroutine of the server has ended. Calling it again does nothing. Stats and
// Arrivals stay readable.
func (s *Server) Close() { s.close() }

// SetLimits replaces the limits from now on, as a provider does that raises or
// lowers them. What was charged stays charged: a new limit stands as if it had
// been in force from the start. It returns an error, and changes nothing, if a
// limit is invalid.
func (s *Server) SetLimits(limits ...Limit) error {
	limits, err := s.config.complete(s.provider, limits)
	if err != nil {
		return err
	}
	s.enforcer.setLimits(limits)
	return nil
}
