package console

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/holdfast-csi/holdfast/spdk/operator"
	"github.com/holdfast-csi/holdfast/spdk/volume"
)

// NodeCommands look at SPDK nodes, close them to what is new, empty them and forget them.
func (c Cluster) NodeCommands() []*cobra.Command {
	return []*cobra.Command{c.nodeListCommand(), c.nodeCordonCommand(true), c.nodeCordonCommand(false), c.nodeDrainCommand(), c.nodeForgetCommand()}
}

func (c Cluster) nodeListCommand() *cobra.Command {
	return c.look(&cobra.Command{Use: "list", Short: "List all SPDK nodes and what is on them", Args: cobra.NoArgs}, listNodes)
}

func listNodes(ctx context.Context, o *operator.Operator, output outputFlag, out io.Writer) error {
	nodes, err := o.Nodes(ctx)
	if err != nil {
		return err
	}
	return output.print(out, nodes, func(out io.Writer) { printNodes(out, nodes) })
}

func printNodes(out io.Writer, nodes []operator.NodeSummary) {
	t := newTable(out, "NAME", "ANSWERS", "CORDONED", "ZONE", "TARGET", "FREE", "OF", "RAID HOST OF", "STANDBYS", "REPLICAS", "NOT IN-SYNC", "FORMER")
	for _, n := range nodes {
		answers, free, size := "yes", bytesText(n.FreeBytes), bytesText(n.SizeBytes)
		if n.Problem != "" {
			answers, free, size = "no", "-", "-"
		}
		t.row(n.Name, answers, yesOrDash(n.Cordoned), orDash(n.Zone), orDash(n.NVMf), free, size, fmt.Sprint(n.Running), fmt.Sprint(n.Standbys), fmt.Sprint(n.Replicas),
			fmt.Sprint(n.NotInSync), fmt.Sprint(n.Retired))
	}
	t.flush()
	printProblems(out, nodes)
}

// printProblems says why nodes don't answer.
func printProblems(out io.Writer, nodes []operator.NodeSummary) {
	for _, n := range nodes {
		if n.Problem != "" {
			fmt.Fprintf(out, "%s: %s\n", n.Name, n.Problem)
		}
	}
}

func yesOrDash(yes bool) string {
	if yes {
		return "yes"
	}
	return "-"
}

func (c Cluster) nodeCordonCommand(cordoned bool) *cobra.Command {
	f := c()
	use, short, done := "cordon NODE", "Keep new replicas, raid hosts and standbys away from an SPDK node; what is there stays", "cordoned"
	if !cordoned {
		use, short, done = "uncordon NODE", "Let new replicas, raid hosts and standbys come to an SPDK node again", "open again"
	}
	cmd := &cobra.Command{
		Use:   use,
		Short: short,
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return with(cmd.Context(), f, func(o *operator.Operator) error {
				if err := o.Cordon(cmd.Context(), args[0], cordoned); err != nil {
					return err
				}
				_, err := fmt.Fprintf(cmd.OutOrStdout(), "%s is %s.\n", args[0], done)
				return err
			})
		},
	}
	f.AddFlags(cmd)
	return cmd
}

func (c Cluster) nodeDrainCommand() *cobra.Command {
	f := c()
	var parallel int
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "drain NODE",
		Short: "Move every volume off an SPDK node that is to be stopped, and say whether it may be",
		Long: "Move every volume that has its raid host on an SPDK node to another, and say what is left there. The exit status is 0 only\n" +
			"if the node may be stopped: no volume in use has its raid host there, and none its only good replica. Cordon the node first,\n" +
			"so that nothing new goes there.",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return with(cmd.Context(), f, func(o *operator.Operator) error {
				ctx, cancel := context.WithTimeout(cmd.Context(), timeout)
				defer cancel()
				return drainNode(ctx, cmd.Context(), o, args[0], parallel, cmd.OutOrStdout())
			})
		},
	}
	f.AddFlags(cmd)
	cmd.Flags().IntVar(&parallel, "parallel", 4, "how many volumes are moved at a time")
	cmd.Flags().DurationVar(&timeout, "timeout", 10*time.Minute, "how long to wait for all moves together")
	return cmd
}

// drainNode moves until ctx ends and looks at what remains until the command's own context does.
func drainNode(ctx, command context.Context, o *operator.Operator, node string, parallel int, out io.Writer) error {
	drainErr := o.Drain(ctx, node, parallel, func(m operator.Moved) {
		outcome := "runs on " + m.To
		switch {
		case m.Err != nil:
			outcome = "stays: " + strings.ReplaceAll(m.Err.Error(), "\n", "; ")
		case m.To == "":
			outcome = "not in use any more"
		}
		fmt.Fprintf(out, "[%d/%d] %s: %s\n", m.Done, m.Of, m.Volume.Name, outcome)
	})
	if errors.Is(drainErr, volume.ErrNodeUnknown) || command.Err() != nil {
		return drainErr
	}
	remains, err := o.Remains(command, node)
	if err != nil {
		return errors.Join(drainErr, err)
	}
	printRemains(out, node, remains)
	if !remains.MayStop() {
		return fmt.Errorf("%s must not be stopped yet", node)
	}
	fmt.Fprintf(out, "%s may be stopped.\n", node)
	return nil
}

func printRemains(out io.Writer, node string, r operator.Remains) {
	say := func(volumes []*volume.Volume, text string) {
		if len(volumes) > 0 {
			fmt.Fprintf(out, "%s %s\n", text, names(volumes))
		}
	}
	say(r.Running, "In use, and still with its raid host there:")
	say(r.LastCopies, "The only good replica is there, and the volume stops with it (wait for the rebuild of another; \"holdfast volume show\"):")
	say(r.AtRisk, "Left with one good replica while it is down:")
	say(r.Unstaged, "Assembled there for nobody yet; another raid host is chosen:")
	fmt.Fprintf(out, "%s holds %d good replicas, which are rebuilt after it was down, and %d standbys, which are made elsewhere.\n", node, r.Replicas, r.Standbys)
}

func names(volumes []*volume.Volume) string {
	texts := make([]string, 0, len(volumes))
	for _, v := range volumes {
		texts = append(texts, v.Name)
	}
	return strings.Join(texts, ", ")
}

func (c Cluster) nodeForgetCommand() *cobra.Command {
	f := c()
	var yes bool
	var lossVolumes []string
	cmd := &cobra.Command{
		Use:   "forget NODE [--yes-never-returns]",
		Short: "Take an SPDK node that never returns off the records of all volumes",
		Long: "Take an SPDK node that never returns off the records of all volumes and snapshots: its replicas, standbys, former assemblies\n" +
			"and lvols of snapshots, so that volumes can be deleted and replicas are made elsewhere. It is refused while the node answers, and where it would leave a\n" +
			"volume without an in-sync replica on record. Without --yes-never-returns nothing is changed, and what would go is shown.",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return with(cmd.Context(), f, func(o *operator.Operator) error {
				return forgetNode(cmd.Context(), o, args[0], lossVolumes, yes, cmd.OutOrStdout())
			})
		},
	}
	f.AddFlags(cmd)
	cmd.Flags().BoolVar(&yes, "yes-never-returns", false, "do it; without this it is only shown")
	cmd.Flags().StringArrayVar(&lossVolumes, "data-loss-volume", nil, "ID of a volume that may be left without an in-sync replica, or of a snapshot that may be lost; may be repeated")
	return cmd
}

func forgetNode(ctx context.Context, o *operator.Operator, node string, lossVolumes []string, yes bool, out io.Writer) error {
	forgotten, err := o.ForgetNode(ctx, node, lossVolumes, yes)
	if err != nil {
		err = fmt.Errorf("forget SPDK node %s: %w", node, err)
	} else if len(forgotten) == 0 {
		fmt.Fprintf(out, "No record names %s.\n", node)
	}
	return errors.Join(err, printForgotten(out, forgotten, yes))
}

// printForgotten shows what went, or would go, and what then is nobody's.
func printForgotten(out io.Writer, forgotten []operator.Forgetting, done bool) error {
	var lvols []string
	for _, f := range forgotten {
		for _, line := range f.Lines {
			fmt.Fprintf(out, "%s: %s\n", f.Name(), line)
		}
		lvols = append(lvols, f.Lvols...)
	}
	switch {
	case len(forgotten) == 0:
		return nil
	case !done:
		return errors.New("that would be taken off the records for good; to do it, add --yes-never-returns; nothing was changed")
	}
	if len(lvols) > 0 {
		fmt.Fprintln(out, "Off the records. Should a disk of these return, delete its lvols by hand before it is used again:")
		for _, lvol := range lvols {
			fmt.Fprintf(out, "  %s\n", lvol)
		}
	}
	return nil
}
