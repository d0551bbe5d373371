// Package service is where the answers of an example come from: the real service
// when its key is set, and a simulator in this process otherwise.
package service

import (
	"fmt"
	"net/http"
	"os"
	"strings"

	"github.com/llmqueue/llmqueue/llmtest"
)

// Service is what an example asks. Safe for concurrent use.
type Service struct {
	// Transport is what the SDK's HTTP client stands on. It counts calls.
	Transport *Counter
	// URL is the base URL of the simulator; empty for the real service.
	URL string
	// Server is the simulator; nil when the real service answers.
	Server *llmtest.Server

	variable string
}

// Key is the key to give to an SDK that insists on one: the simulator takes any.
const Key = "no-key-needed"

// Real reports whether the real service will be asked: one of the environment's
// variables is set.
func Real(variables ...string) bool {
	for _, v := range variables {
		if os.Getenv(v) != "" {
			return true
		}
	}
	return false
}

// Open returns the real service if one of the variables is set, which the SDK reads
// by itself, and otherwise, or without variables, starts a simulator in memory. Close it.
func Open(simulated llmtest.Provider, opts []llmtest.Option, variables ...string) (*Service, error) {
	if Real(variables...) {
		return &Service{Transport: &Counter{base: http.DefaultTransport}}, nil
	}
	srv, err := llmtest.Start(simulated, append([]llmtest.Option{llmtest.InMemory()}, opts...)...)
	if err != nil {
		return nil, fmt.Errorf("start the simulator: %w", err)
	}
	return &Service{
		Transport: &Counter{base: srv.Client().Transport},
		URL:       srv.URL(),
		Server:    srv,
		variable:  strings.Join(variables, " or "),
	}, nil
}

// Simulated reports whether a simulator answers.
func (s *Service) Simulated() bool { return s.Server != nil }

// Close stops the simulator, if there is one.
func (s *Service) Close() {
	if s.Simulated() {
		s.Server.Close()
	}
}

// String says who answers. It never contains a key.
func (s *Service) String() string {
	if s.Simulated() {
		if s.variable == "" {
			return "a simulator in this process, whose words make no sense"
		}
		return fmt.Sprintf("a simulator in this process, whose words make no sense (set %s to ask the real service)", s.variable)
	}
	return "the real service"
}
