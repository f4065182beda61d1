package driver

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"k8s.io/klog/v2"

	"github.com/holdfast-csi/holdfast/spdk/gateway"
	"github.com/holdfast-csi/holdfast/spdk/volume"
	"github.com/holdfast-csi/holdfast/spdk/volume/stores/bolt"
	"github.com/holdfast-csi/holdfast/spdk/volume/stores/remote"
)

// headerTimeout bounds how long a client of the served store may take to say what it wants.
const headerTimeout = 5 * time.Second

// OpenStore opens the store at bolt:///path, or the one that another process serves at unix:///path or tls://host:port.
func (c *Config) OpenStore(address string) (store volume.Store, closeStore func(), err error) {
	if path, ok := strings.CutPrefix(address, "bolt://"); ok {
		s, err := bolt.Open(path)
		if err != nil {
			return nil, nil, err
		}
		return s, func() { _ = s.Close() }, nil // every write was synced when it was made
	}
	s, err := remote.New(address, c.TLS.Files())
	if err != nil {
		return nil, nil, fmt.Errorf("store %q: %w", address, err)
	}
	return s, s.Close, nil
}

// ServeStore serves a store at unix:///path, to the user of this process alone, or tls://host:port, to clients with a
// certificate of the configured authorities, until ctx ends.
func (c *Config) ServeStore(ctx context.Context, address string, store volume.Store) error {
	listener, err := c.listenStore(ctx, address)
	if err != nil {
		return fmt.Errorf("serve the store at %s: %w", address, err)
	}
	server := &http.Server{Handler: remote.Handler(store), ReadHeaderTimeout: headerTimeout, BaseContext: func(net.Listener) context.Context { return ctx }}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	klog.FromContext(ctx).Info("Serving the store", "address", address)
	select {
	case err := <-served:
		return fmt.Errorf("serve the store at %s: %w", address, err)
	case <-ctx.Done():
	}
	err = server.Close()
	if stopped := <-served; !errors.Is(stopped, http.ErrServerClosed) {
		err = errors.Join(err, stopped)
	}
	return err
}

func (c *Config) listenStore(ctx context.Context, address string) (net.Listener, error) {
	u, err := url.Parse(address)
	if err != nil {
		return nil, err
	}
	switch {
	case u.Scheme == "unix" && u.Path != "":
		return listen(ctx, u.Path)
	case u.Scheme == "tls" && u.Port() != "":
		config, err := gateway.ServerTLS(c.TLS.Cert, c.TLS.Key, c.TLS.CA, klog.FromContext(ctx))
		if err != nil {
			return nil, fmt.Errorf("tls of the configuration: %w", err)
		}
		var lc net.ListenConfig
		l, err := lc.Listen(ctx, "tcp", u.Host)
		if err != nil {
			return nil, err
		}
		return tls.NewListener(l, config), nil
	}
	return nil, errors.New("want unix:///path or tls://host:port")
}
