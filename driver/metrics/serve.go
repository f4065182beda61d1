package metrics

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"k8s.io/klog/v2"
)

const (
	// headerTimeout and requestTimeout bound how long a client may take to ask, answerTimeout how long it may take to read the answer.
	headerTimeout, requestTimeout, answerTimeout = 5 * time.Second, 5 * time.Second, 30 * time.Second
	// idleTimeout is how long a connection is kept for the next scrape.
	idleTimeout = 2 * time.Minute
	// collectTimeout bounds the putting together of an answer.
	collectTimeout = 10 * time.Second
	// readyTimeout bounds the question whether the process is ready.
	readyTimeout = 3 * time.Second
	// maxScrapes is how many scrapes are answered side by side; others are answered 503.
	maxScrapes = 4
	// maxHeaderBytes bounds what a client may send.
	maxHeaderBytes = 16 << 10
)

// Handler answers GET /metrics with what the registry has, /healthz with 200 as long as the process answers at all, and /readyz with 503
// while ready, which may be nil, returns an error.
func Handler(registry prometheus.Gatherer, ready func(context.Context) error) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{
		ErrorHandling: promhttp.ContinueOnError, MaxRequestsInFlight: maxScrapes, Timeout: collectTimeout,
	}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { say(w, http.StatusOK, "ok") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), readyTimeout)
		defer cancel()
		if ready != nil {
			if err := ready(ctx); err != nil {
				klog.FromContext(ctx).V(2).Info("Not ready", "err", err)
				say(w, http.StatusServiceUnavailable, "not ready; the log says why with -v 2")
				return
			}
		}
		say(w, http.StatusOK, "ok")
	})
	return mux
}

func say(w http.ResponseWriter, code int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(code)
	_, _ = fmt.Fprintln(w, text) // whoever asked is gone
}

// Listen listens on a TCP address, host:port. Who reaches it reads everything without a password: give it a loopback address, or keep
// others away from it.
func Listen(ctx context.Context, address string) (net.Listener, error) {
	if _, _, err := net.SplitHostPort(address); err != nil {
		return nil, fmt.Errorf("metrics address %q: give host:port, such as 127.0.0.1:9090", address)
	}
	var config net.ListenConfig
	listener, err := config.Listen(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("listen for metrics: %w", err)
	}
	return listener, nil
}

// Serve answers on a listener, which it closes, until ctx ends.
func Serve(ctx context.Context, listener net.Listener, handler http.Handler) error {
	server := &http.Server{
		Handler: handler, ReadHeaderTimeout: headerTimeout, ReadTimeout: requestTimeout, WriteTimeout: answerTimeout, IdleTimeout: idleTimeout,
		MaxHeaderBytes: maxHeaderBytes, BaseContext: func(net.Listener) context.Context { return ctx },
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	klog.FromContext(ctx).Info("Serving metrics", "address", listener.Addr().String())
	select {
	case err := <-served:
		return fmt.Errorf("serve metrics on %s: %w", listener.Addr(), err)
	case <-ctx.Done():
	}
	err := server.Close()
	if stopped := <-served; !errors.Is(stopped, http.ErrServerClosed) {
		err = errors.Join(err, stopped)
	}
	return err
}
