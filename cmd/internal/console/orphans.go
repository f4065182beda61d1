package console

import (
	"context"
	"fmt"
	"io"
	"maps"
	"slices"

	"github.com/spf13/cobra"

	"github.com/holdfast-csi/holdfast/spdk/operator"
)

// OrphansCommand lists lvols of which no record speaks.
func (c Cluster) OrphansCommand() *cobra.Command {
	return c.look(&cobra.Command{Use: "orphans", Short: "List lvols with a name of Holdfast's of which no record speaks; nothing is deleted", Args: cobra.NoArgs}, listOrphans)
}

func listOrphans(ctx context.Context, o *operator.Operator, output outputFlag, out io.Writer) error {
	orphans, silent, err := o.Orphans(ctx)
	if err != nil {
		return err
	}
	return output.print(out, orphans, func(out io.Writer) { printOrphans(out, orphans, silent) })
}

func printOrphans(out io.Writer, orphans []operator.Orphan, silent map[string]error) {
	if len(orphans) == 0 {
		fmt.Fprintln(out, "Every lvol of Holdfast's on the SPDK nodes that answer is on record.")
	} else {
		t := newTable(out, "NODE", "LVSTORE", "LVOL", "SIZE", "ALLOCATED")
		for _, l := range orphans {
			t.row(l.Node, l.LvStore, l.Name, bytesText(l.SizeBytes), bytesText(l.AllocatedBytes))
		}
		t.flush()
	}
	for _, node := range slices.Sorted(maps.Keys(silent)) {
		fmt.Fprintf(out, "%s is not looked at: %v\n", node, silent[node])
	}
}
