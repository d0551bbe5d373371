package gateway

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"
)

// Serve serves on a listener until ctx ends, then finishes what it has within the drain timeout.
// ended, once done, ends that at once.
func (g *Gateway) Serve(ctx context.Context, ln net.Listener, ended <-chan struct{}) error {
	viewers, leave := context.WithCancel(context.WithoutCancel(ctx))
	defer leave()
	pages := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if dialectOf(r) == nil { // a page's stream would not end by itself
			ctx, cancel := context.WithCancel(r.Context())
			defer cancel()
			defer context.AfterFunc(viewers, cancel)()
			r = r.WithContext(ctx)
			_ = http.NewResponseController(w).SetWriteDeadline(time.Time{})
		}
		g.ServeHTTP(w, r)
	})
	server := &http.Server{
		Handler:           pages,
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          slog.NewLogLogger(g.log.Handler(), slog.LevelDebug),
	}
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(ln) }()
	select {
	case err := <-failed:
		return errors.Join(err, g.Close(context.Background()))
	case <-ctx.Done():
	}
	g.Drain()
	leave()
	g.log.Info("draining: what waits and runs is finished, nothing new is taken")
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), g.live.Load().config.DrainTimeout)
	defer cancel()
	go func() {
		select {
		case <-ended:
			cancel()
		case <-ctx.Done():
		}
	}()
	err := server.Shutdown(ctx)
	// What is left now gets an answer that says so.
	closed := g.Close(ctx)
	if err != nil {
		last, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		if server.Shutdown(last) != nil {
			_ = server.Close()
		}
		return fmt.Errorf("ended before everything was finished: %w", context.Cause(ctx))
	}
	return closed
}
