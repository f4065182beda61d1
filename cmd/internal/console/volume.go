package console

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/holdfast-csi/holdfast/spdk/condition"
	"github.com/holdfast-csi/holdfast/spdk/operator"
)

// VolumeCommand looks at volumes, moves them, and decides what the driver does not decide on its own.
func (c Cluster) VolumeCommand() *cobra.Command {
	cmd := c.volumeShowCommand()
	cmd.Use = "volume VOLUME"
	cmd.AddCommand(c.volumeListCommand(), c.volumeShowCommand(), c.volumeMoveCommand(), c.volumeSalvageCommand(), c.volumeForgetReplicaCommand())
	return cmd
}

func (c Cluster) volumeListCommand() *cobra.Command {
	return c.look(&cobra.Command{Use: "list", Short: "List all volumes and how they are", Args: cobra.NoArgs}, listVolumes)
}

func listVolumes(ctx context.Context, o *operator.Operator, output outputFlag, out io.Writer) error {
	rows, sight, err := o.Summaries(ctx)
	if err != nil {
		return err
	}
	return output.print(out, rows, func(out io.Writer) {
		table := newTable(out, "NAME", "ID", "SIZE", "STATE", "RAID HOST", "STANDBY", "OWNER", "PUBLISHED TO")
		for _, r := range rows {
			raidHost := orDash(r.RaidHost)
			if r.MoveTo != "" {
				raidHost += " > " + r.MoveTo
			}
			table.row(r.Name, r.ID, bytesText(r.SizeBytes), r.String(), raidHost, orDash(r.Standby), orDash(r.Owner), orDash(strings.Join(r.PublishedTo, ",")))
		}
		table.flush()
		silentNodes(out, sight)
	})
}

// silentNodes names the nodes that don't answer: what the list says of them is from the records alone.
func silentNodes(out io.Writer, sight condition.Sight) {
	for _, name := range sight.Silent() {
		fmt.Fprintf(out, "%v\n", sight.Err(name))
	}
}
