// Command holdfast is the driver: one binary with a subcommand for each of its processes.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
	"k8s.io/klog/v2"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/holdfast-csi/holdfast/driver"
)

func main() { os.Exit(run()) }

func run() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	defer klog.Flush()
	if err := root().ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "holdfast:", err)
		return 1
	}
	return 0
}

func root() *cobra.Command {
	cmd := &cobra.Command{
		Use:           "holdfast",
		Short:         "CSI driver for replicated volumes on SPDK",
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	logging := flag.NewFlagSet("logging", flag.ContinueOnError)
	klog.InitFlags(logging)
	log.SetLogger(klog.Background()) // or it complains half a minute later, with a stack, and logs nothing
	cmd.PersistentFlags().AddGoFlag(logging.Lookup("v"))
	node := nodeCommand()
	node.AddCommand(commands.NodeCommands()...)
	cmd.AddCommand(controllerCommand(), node, gatewayCommand(), timeoutsCommand(), spdkConfigCommand(), demoCommand(), versionCommand())
	cmd.AddCommand(commands.StatusCommand(), commands.VolumeCommand(), commands.SnapshotCommand(), commands.OrphansCommand(), probeCommand())
	return cmd
}

func versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the driver's name and version",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := fmt.Fprintln(cmd.OutOrStdout(), driver.Name, driver.Version)
			return err
		},
	}
}
