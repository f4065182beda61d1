// Command kubectl-holdfast is a plugin of kubectl: the operator's commands for clusters whose records are in the API server, from wherever kubectl
// works.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/holdfast-csi/holdfast/console"
)

// version is set when it is linked.
var version = "dev"

func main() { os.Exit(run()) }

func run() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := root(kubectl).ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "kubectl holdfast:", err)
		return 1
	}
	return 0
}

// root returns the plugin; kubectl runs kubectl.
func root(kubectl runner) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "kubectl-holdfast",
		Short: "Look at Holdfast's volumes and SPDK nodes, and change them",
		Long: "Look at Holdfast's volumes and SPDK nodes, and change them. VOLUME is a volume's ID, a PersistentVolume, or a claim as NAMESPACE/NAME.\n" +
			"The SPDK nodes are not asked from here: what is shown of them is as the leading controller last told. What needs them asked runs in the\n" +
			"controller's pod, by kubectl exec.",
		Annotations:   map[string]string{cobra.CommandDisplayNameAnnotation: "kubectl holdfast"},
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	s := &server{kubectl: kubectl}
	flags := cmd.PersistentFlags()
	flags.StringVar(&s.kubeconfig, "kubeconfig", "", "file that says how the API server is reached; default is as kubectl finds it")
	flags.StringVar(&s.context, "context", "", "context of the kubeconfig file")
	flags.StringVarP(&s.namespace, "namespace", "n", "", "namespace of claims that are named without one; default is that of the context")
	flags.StringVar(&s.driverNamespace, "driver-namespace", "holdfast", "namespace of the driver's pods and of the controllers' lease")
	commands := console.Cluster(func() console.Access { return s })
	node := &cobra.Command{Use: "node", Short: "Look at SPDK nodes, close them to what is new, empty them and forget them", Args: cobra.NoArgs}
	node.AddCommand(commands.NodeCommands()...)
	cmd.AddCommand(commands.StatusCommand(), commands.VolumeCommand(), commands.SnapshotCommand(), node, commands.OrphansCommand(), bundleCommand(s), versionCommand())
	for _, path := range [][]string{{"volume", "salvage"}, {"volume", "forget-replica"}, {"node", "forget"}, {"orphans"}} {
		if found, _, err := cmd.Find(path); err == nil {
			s.inPod(found, path[0] == "volume")
		}
	}
	return cmd
}

func versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the plugin's version",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := fmt.Fprintln(cmd.OutOrStdout(), version)
			return err
		},
	}
}
