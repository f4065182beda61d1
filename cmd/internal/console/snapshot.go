package console

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/holdfast-csi/holdfast/spdk/operator"
	"github.com/holdfast-csi/holdfast/spdk/volume"
)

// SnapshotCommand looks at snapshots.
func (c Cluster) SnapshotCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "snapshot", Short: "Look at snapshots", Args: cobra.NoArgs}
	cmd.AddCommand(c.snapshotListCommand())
	return cmd
}

func (c Cluster) snapshotListCommand() *cobra.Command {
	return c.look(&cobra.Command{Use: "list", Short: "List all snapshots, on how many nodes each is, and what is still being deleted", Args: cobra.NoArgs}, listSnapshots)
}

func listSnapshots(ctx context.Context, o *operator.Operator, output outputFlag, out io.Writer) error {
	snapshots, err := o.Snapshots(ctx)
	if err != nil {
		return err
	}
	return output.print(out, snapshots, func(out io.Writer) {
		table := newTable(out, "NAME", "ID", "GROUP", "SOURCE", "SIZE", "TAKEN", "STATE", "REPLICAS", "HOLDS", "NODES")
		for _, sn := range snapshots {
			table.row(snapshotName(sn), sn.ID, orDash(groupID(sn)), sn.Source, bytesText(sn.SizeBytes), takenText(sn), string(sn.Phase), fmt.Sprint(len(sn.InState(volume.SnapshotTaken))),
				bytesText(heldBytes(sn)), orDash(strings.Join(snapshotNodes(sn), ",")))
		}
		table.flush()
	})
}

func snapshotName(sn *volume.Snapshot) string {
	if sn.For != "" {
		return "(clone " + sn.For + ")"
	}
	return sn.Name
}

func groupID(sn *volume.Snapshot) string {
	if sn.Group == nil {
		return ""
	}
	return sn.Group.ID
}

func takenText(sn *volume.Snapshot) string {
	if sn.TakenAt.IsZero() {
		return "-"
	}
	return ago(time.Since(sn.TakenAt))
}

// heldBytes is what a snapshot holds of all lvstores together.
func heldBytes(sn *volume.Snapshot) int64 {
	var held int64
	for _, r := range sn.Replicas {
		held += r.Bytes
	}
	return held
}

// snapshotNodes are the nodes with an lvol of the snapshot, those of lvols that are to go in brackets.
func snapshotNodes(sn *volume.Snapshot) []string {
	var nodes []string
	for _, r := range sn.Replicas {
		if r.State == volume.SnapshotTaken {
			nodes = append(nodes, r.Node)
		} else {
			nodes = append(nodes, "("+r.Node+")")
		}
	}
	return nodes
}
