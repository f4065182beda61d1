package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/rest"

	"github.com/holdfast-csi/holdfast/console"
	"github.com/holdfast-csi/holdfast/console/bundle"
)

// Limits of one log in a bundle.
const (
	logLines int64 = 50_000
	logBytes int64 = 16 << 20
)

func bundleCommand(s *server) *cobra.Command {
	var path string
	cmd := &cobra.Command{
		Use:   "support-bundle",
		Short: "Collect records, SPDK nodes, events, and the driver's versions and logs in a file, without secrets",
		Long: "Collect records, SPDK nodes, events, and the driver's versions and logs in a tar.gz file. No Secret is read, and what looks like a secret in\n" +
			"logs and messages is hidden. Names of volumes, claims, nodes and addresses are in it: look through it before you give it away.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if path == "" {
				path = "holdfast-support-" + time.Now().UTC().Format("20060102-150405") + ".tar.gz"
			}
			return s.bundle(cmd, path)
		},
	}
	cmd.Flags().StringVarP(&path, "output", "o", "", "file to make; default is holdfast-support-TIME.tar.gz here")
	return cmd
}

func (s *server) bundle(cmd *cobra.Command, path string) error {
	config, c, _, err := s.connect()
	if err != nil {
		return err
	}
	logs, err := logsOf(config)
	if err != nil {
		return err
	}
	out, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("make the bundle: %w", err)
	}
	source := bundle.Source{
		Client: c, Logs: logs, Namespace: s.driverNamespace, Now: time.Now(),
		Texts: map[string]string{"version.txt": "kubectl-holdfast " + version + "\n", "status.txt": s.statusText(cmd.Context())},
	}
	missing, err := source.Write(cmd.Context(), out)
	if err = errors.Join(err, out.Close()); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	for _, what := range missing {
		fmt.Fprintf(cmd.OutOrStdout(), "left out: %s\n", what)
	}
	fmt.Fprintf(cmd.OutOrStdout(), "%s is made. It holds names and addresses of your cluster: look through it before you give it away.\n", path)
	return nil
}

// statusText is what the command status prints.
func (s *server) statusText(ctx context.Context) string {
	var text strings.Builder
	status := console.Cluster(func() console.Access { return s }).StatusCommand()
	status.SilenceErrors, status.SilenceUsage = true, true
	status.SetArgs([]string{})
	status.SetOut(&text)
	if err := status.ExecuteContext(ctx); err != nil {
		fmt.Fprintf(&text, "%v\n", err)
	}
	return text.String()
}

// logsOf reads logs from the API server.
func logsOf(config *rest.Config) (bundle.Logs, error) {
	core, err := typedcorev1.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("make a client of the API server: %w", err)
	}
	lines, bytes := logLines, logBytes
	return func(ctx context.Context, namespace, pod, container string, previous bool) (io.ReadCloser, error) {
		options := &corev1.PodLogOptions{Container: container, Previous: previous, Timestamps: true, TailLines: &lines, LimitBytes: &bytes}
		return core.Pods(namespace).GetLogs(pod, options).Stream(ctx)
	}, nil
}
