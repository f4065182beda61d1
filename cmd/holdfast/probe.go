package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"syscall"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/holdfast-csi/holdfast/driver"
)

func probeCommand() *cobra.Command {
	var endpoint string
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "probe",
		Short: "Ask a controller or node service whether it answers; one that waits for its turn to serve is well",
		Long: "Ask a controller or node service whether it answers. Of several controllers one serves its socket, the others wait until it is\n" +
			"their turn: a socket that nobody listens on is no fault here. A process that has ended is noticed by whoever started it.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, cancel := context.WithTimeout(cmd.Context(), timeout)
			defer cancel()
			return probe(ctx, endpoint)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&endpoint, "endpoint", "unix:///run/holdfast/controller.sock", "Unix socket on which CSI is served")
	flags.DurationVar(&timeout, "timeout", 5*time.Second, "how long an answer may take")
	return cmd
}

// probe fails if a service listens on the endpoint and doesn't answer in time. One that answers that it isn't ready is alive.
func probe(ctx context.Context, endpoint string) error {
	path, err := driver.SocketPath(endpoint)
	if err != nil {
		return err
	}
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "unix", path)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("connect to the service: %w", err)
	}
	if err := conn.Close(); err != nil {
		return fmt.Errorf("connect to the service: %w", err)
	}
	client, err := grpc.NewClient("unix://"+path, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return fmt.Errorf("connect to the service: %w", err)
	}
	_, err = csi.NewIdentityClient(client).Probe(ctx, &csi.ProbeRequest{})
	if err != nil {
		err = fmt.Errorf("the service at %s doesn't answer: %w", path, err)
	}
	return errors.Join(err, client.Close())
}
