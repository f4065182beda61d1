package console

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/holdfast-csi/holdfast/spdk/operator"
	"github.com/holdfast-csi/holdfast/spdk/volume"
)

func (c Cluster) volumeMoveCommand() *cobra.Command {
	f := c()
	var to string
	var noWait bool
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "move VOLUME --to NODE",
		Short: "Make an SPDK node the raid host of a volume in use; the pod sees a short pause",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return with(cmd.Context(), f, func(o *operator.Operator) error {
				ctx, cancel := context.WithTimeout(cmd.Context(), timeout)
				defer cancel()
				return moveVolume(ctx, o, args[0], to, !noWait, cmd.OutOrStdout())
			})
		},
	}
	f.AddFlags(cmd)
	flags := cmd.Flags()
	flags.StringVar(&to, "to", "", "name of the SPDK node (required)")
	flags.BoolVar(&noWait, "no-wait", false, "put the wish on record and leave the rest to the node service that has the volume staged")
	flags.DurationVar(&timeout, "timeout", 5*time.Minute, "how long to wait; the wish stays on record after that")
	mustRequire(cmd, "to")
	return cmd
}

func moveVolume(ctx context.Context, o *operator.Operator, name, to string, wait bool, out io.Writer) error {
	v, err := o.Find(ctx, name)
	if err != nil {
		return err
	}
	if v, err = o.Move(ctx, v.ID, to); err != nil {
		return err
	}
	if !wait {
		fmt.Fprintf(out, "%s: %s\n", v.Name, stageText(v, to, operator.StageAsked))
		return nil
	}
	begin := time.Now()
	return o.Await(ctx, v.ID, to, func(v *volume.Volume, stage operator.Stage) {
		fmt.Fprintf(out, "%s: %s (%s)\n", v.Name, stageText(v, to, stage), time.Since(begin).Round(100*time.Millisecond))
	})
}

func stageText(v *volume.Volume, to string, stage operator.Stage) string {
	switch stage {
	case operator.StageAsked:
		return fmt.Sprintf("the node service on %s is asked to move it from %s to %s", v.Owner, v.Assembly.RaidHost, to)
	case operator.StageWaiting:
		return "a replica is being rebuilt, or was seen failing: it moves when that is over"
	case operator.StagePrepared:
		return fmt.Sprintf("%s is ready to take over from %s; the node service on %s is asked to switch", to, v.Assembly.RaidHost, v.Owner)
	case operator.StageSwitching:
		return "switching over to " + to
	}
	return "runs on " + to
}

func (c Cluster) volumeSalvageCommand() *cobra.Command {
	f := c()
	var replica string
	var yes bool
	cmd := &cobra.Command{
		Use:   "salvage VOLUME [--replica ID --yes-lose-writes]",
		Short: "Go on with a replica that has missed writes, when no in-sync replica will return",
		Long: "Go on with a replica that has missed writes, when no in-sync replica will return. What was written without it is lost for\n" +
			"good: the other replicas, the one that was in-sync among them, are overwritten from it. Without --yes-lose-writes nothing\n" +
			"is changed, and all replicas are shown with what is known of them.",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return with(cmd.Context(), f, func(o *operator.Operator) error {
				return salvageVolume(cmd.Context(), o, args[0], replica, yes, cmd.OutOrStdout())
			})
		},
	}
	f.AddFlags(cmd)
	cmd.Flags().StringVar(&replica, "replica", "", "ID of the replica to go on with")
	cmd.Flags().BoolVar(&yes, "yes-lose-writes", false, "do it: what was written without that replica may be lost")
	return cmd
}

func salvageVolume(ctx context.Context, o *operator.Operator, name, replica string, yes bool, out io.Writer) error {
	d, err := o.Show(ctx, name)
	if err != nil {
		return err
	}
	printCandidates(out, d, time.Now())
	if replica == "" {
		return errors.New("choose a replica with --replica; nothing was changed")
	}
	if err := operator.CheckSalvage(d, replica); err != nil {
		return fmt.Errorf("salvage volume %s: %w", d.ID, err)
	}
	if !yes {
		return fmt.Errorf("what was written without replica %s would be lost for good; to do that, add --yes-lose-writes; nothing was changed", replica)
	}
	v, err := o.Salvage(ctx, d.ID, replica)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "Replica %s on %s is the source of %s now. Check its file system before it is trusted; the others are rebuilt from it.\n", replica, v.Replica(replica).Node, v.Name)
	return nil
}

func printCandidates(out io.Writer, d operator.Detail, now time.Time) {
	fmt.Fprintf(out, "%s  %s  %s  %s%s\n", d.Name, d.ID, bytesText(d.SizeBytes), d.Condition, publishedText(d.Record))
	t := newTable(out, "REPLICA", "NODE", "STATE", "SINCE", "ALLOCATED", "CAN BE READ")
	for _, r := range operator.Candidates(d) {
		allocated := "-"
		if r.SizeBytes > 0 {
			allocated = bytesText(r.AllocatedBytes)
		}
		t.row(r.ID, r.Node, string(r.State), fmt.Sprintf("%s (%s)", r.Since.UTC().Format(time.RFC3339), ago(now.Sub(r.Since))), allocated, readableText(r))
	}
	t.flush()
}

// readableText says whether a replica can be read, and what speaks against what it would read.
func readableText(r operator.ReplicaDetail) string {
	switch {
	case !r.Usable():
		return "no: " + r.Problem
	case r.AllocatedBytes == 0:
		return "yes, but it holds nothing"
	case r.State == volume.ReplicaRebuilding:
		return "yes, but it was being rebuilt: it holds blocks of two times"
	case r.State == volume.ReplicaOutOfSync && r.Strikes > 0:
		return "yes, but a rebuild of it may have been cut short: it may hold blocks of two times"
	}
	return "yes"
}

func (c Cluster) volumeForgetReplicaCommand() *cobra.Command {
	f := c()
	var replica string
	var yes, loseData bool
	cmd := &cobra.Command{
		Use:   "forget-replica VOLUME --replica ID [--yes-never-returns]",
		Short: "Take a replica whose disk is lost off the record, without waiting for its node",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return with(cmd.Context(), f, func(o *operator.Operator) error {
				v, err := o.Find(cmd.Context(), args[0])
				if err != nil {
					return err
				}
				forgotten, err := o.ForgetReplica(cmd.Context(), v, replica, loseData, yes)
				if err != nil {
					return fmt.Errorf("forget replica %s of volume %s: %w", replica, v.ID, err)
				}
				return printForgotten(cmd.OutOrStdout(), []operator.Forgetting{forgotten}, yes)
			})
		},
	}
	f.AddFlags(cmd)
	flags := cmd.Flags()
	flags.StringVar(&replica, "replica", "", "ID of the replica (required)")
	flags.BoolVar(&yes, "yes-never-returns", false, "do it; without this it is only shown")
	flags.BoolVar(&loseData, "yes-lose-data", false, "even if no in-sync replica is left on record")
	mustRequire(cmd, "replica")
	return cmd
}
