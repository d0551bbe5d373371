package gateway

import (
	"net/http"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/llmqueue/llmqueue"
	"github.com/llmqueue/llmqueue/dashboard"
	"github.com/llmqueue/llmqueue/llmprom"
)

const pagePath = "/debug/llmqueue/"

// newPages serves the page and the metrics.
func newPages(m *llmqueue.Manager[struct{}, struct{}], metrics *llmprom.Collector, controls bool) (http.Handler, error) {
	if err := metrics.Add(m); err != nil {
		return nil, err
	}
	registry := prometheus.NewRegistry()
	registry.MustRegister(metrics, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	page := dashboard.Handler(m)
	if controls {
		page = page.WithControls(m)
	}
	mux := http.NewServeMux()
	mux.Handle(pagePath, page)
	mux.Handle("/metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	return mux, nil
}

// servePage serves what is no call, and reports whether it did.
func (g *Gateway) servePage(w http.ResponseWriter, r *http.Request) bool {
	switch path := r.URL.Path; {
	case path == "/healthz":
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		if g.draining.Load() {
			w.WriteHeader(http.StatusServiceUnavailable)
			_, _ = w.Write([]byte("draining\n"))
		} else {
			_, _ = w.Write([]byte("ok\n"))
		}
		return true
	case path != "/metrics" && !strings.HasPrefix(path, pagePath):
		return false
	}
	live := g.live.Load()
	if live.config.Clients.enabled() {
		if who := identify(live.clients, r); who == nil || !who.admin {
			w.Header().Set("WWW-Authenticate", `Basic realm="llmq"`)
			http.Error(w, "the page and the metrics want an admin's key: as a bearer token, or as the password of any user", http.StatusUnauthorized)
			return true
		}
	} else if err := fromHere(r); err != nil {
		http.Error(w, err.Error(), http.StatusForbidden)
		return true
	}
	g.pages.ServeHTTP(w, r)
	return true
}
