package service

import (
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/llmqueue/llmqueue/llmtest"
)

func TestCalls(t *testing.T) {
	t.Setenv("SERVICE_KEY", "")
	synctest.Test(t, func(t *testing.T) {
		s, err := Open(llmtest.OpenAI(llmtest.RPM(6)), []llmtest.Option{llmtest.WithFaultScript(
			llmtest.Fault{}, llmtest.Fault{Status: 503}, llmtest.Fault{Status: 529},
			llmtest.Fault{Status: 500}, llmtest.Fault{Status: 400}, llmtest.Fault{Kind: llmtest.FaultReset},
		)}, "SERVICE_KEY")
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		if !s.Simulated() || !strings.Contains(s.String(), "SERVICE_KEY") {
			t.Errorf("simulated %v, %q", s.Simulated(), s)
		}
		client := &http.Client{Transport: s.Transport, Timeout: time.Minute}
		for range 7 {
			res, err := client.Post(s.URL+"/chat/completions", "application/json", strings.NewReader(`{"model":"m","messages":[{"content":"hello"}]}`))
			if err == nil {
				res.Body.Close()
			}
		}
		if got, want := s.Transport.Calls(), (Calls{Accepted: 1, Refused: 1, Overloaded: 2, Faults: 3}); got != want {
			t.Errorf("counted %+v, want %+v", got, want)
		}
	})
}

func TestKeyAsksTheRealService(t *testing.T) {
	t.Setenv("OTHER_KEY", "")
	t.Setenv("SERVICE_KEY", "sk-secret")
	s, err := Open(llmtest.OpenAI(), nil, "OTHER_KEY", "SERVICE_KEY")
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if s.Simulated() || s.URL != "" || s.String() != "the real service" {
		t.Errorf("a key is set, but there is %q at %q", s, s.URL)
	}
}
