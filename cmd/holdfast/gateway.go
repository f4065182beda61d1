package main

import (
	"fmt"
	"net"

	"github.com/spf13/cobra"
	"k8s.io/klog/v2"

	"github.com/holdfast-csi/holdfast/spdk/gateway"
	"github.com/holdfast-csi/holdfast/spdk/timeouts"
)

func gatewayCommand() *cobra.Command {
	var listen string
	c := gateway.Config{Timeout: timeouts.RPC}
	cmd := &cobra.Command{
		Use:   "gateway",
		Short: "Pass JSON-RPC between mutual-TLS connections and an SPDK target's Unix socket",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c.Logger = klog.FromContext(cmd.Context())
			g, err := gateway.New(c)
			if err != nil {
				return err
			}
			var config net.ListenConfig
			l, err := config.Listen(cmd.Context(), "tcp", listen)
			if err != nil {
				return fmt.Errorf("listen on %s: %w", listen, err)
			}
			return g.Serve(cmd.Context(), l)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&listen, "listen", ":9009", "host:port to take TLS connections on")
	flags.StringVar(&c.Socket, "socket", "/var/tmp/spdk.sock", "Unix socket of the SPDK target")
	flags.StringVar(&c.KeyDir.Path, "key-dir", "", "directory for keys of DH-HMAC-CHAP that SPDK reads, best in memory; without it no volume's replicas can ask for authentication here")
	flags.StringVar(&c.CertFile, "cert", "/etc/holdfast/tls/tls.crt", "the gateway's certificate (PEM)")
	flags.StringVar(&c.KeyFile, "key", "/etc/holdfast/tls/tls.key", "its key (PEM)")
	flags.StringVar(&c.ClientCAFile, "ca", "/etc/holdfast/tls/ca.crt", "authorities of the clients' certificates (PEM)")
	flags.IntVar(&c.MaxConnections, "max-connections", gateway.DefaultMaxConnections, "how many clients are served at once")
	return cmd
}
