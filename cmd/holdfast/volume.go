package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/utils/clock"

	"github.com/holdfast-csi/holdfast/driver"
	"github.com/holdfast-csi/holdfast/spdk/condition"
	"github.com/holdfast-csi/holdfast/spdk/operator"
)

// clusterFlags say where an operator's command finds the cluster and its records.
type clusterFlags struct{ driver.Source }

func (f *clusterFlags) add(cmd *cobra.Command) {
	addSource(cmd.Flags(), &f.Source, "", "where the records are: kube, unix:///path or tls://host:port that a controller serves, or bolt:///path while none runs (required)")
	mustRequire(cmd, "store")
}

func mustRequire(cmd *cobra.Command, flags ...string) {
	for _, flag := range flags {
		if err := cmd.MarkFlagRequired(flag); err != nil {
			panic(err) // the flag was defined before
		}
	}
}

// open returns the operator's view of the cluster; done ends its connections.
func (f *clusterFlags) open(ctx context.Context) (o *operator.Operator, done func(), err error) {
	opened, err := f.Open(ctx)
	if err != nil {
		return nil, nil, err
	}
	return operator.New(opened.Store, opened.Cluster, clock.RealClock{}), opened.Close, nil
}

// with runs a command on the cluster.
func (f *clusterFlags) with(ctx context.Context, run func(o *operator.Operator) error) error {
	o, done, err := f.open(ctx)
	if err != nil {
		return err
	}
	defer done()
	return run(o)
}

// outputFlag chooses between a text for people and JSON for programs.
type outputFlag struct{ format string }

func (o *outputFlag) add(cmd *cobra.Command) {
	cmd.Flags().StringVarP(&o.format, "output", "o", "text", "text or json")
}

func (o *outputFlag) check() error {
	if o.format != "text" && o.format != "json" {
		return fmt.Errorf("--output %q must be text or json", o.format)
	}
	return nil
}

// print writes v as JSON, or calls text.
func (o *outputFlag) print(out io.Writer, v any, text func(io.Writer)) error {
	if o.format != "json" {
		text(out)
		return nil
	}
	encoder := json.NewEncoder(out)
	encoder.SetIndent("", "  ")
	return encoder.Encode(v)
}

func volumeCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "volume",
		Short: "Look at volumes, move them, and decide what the driver does not decide on its own",
		Args:  cobra.NoArgs,
	}
	cmd.AddCommand(volumeListCommand(), volumeShowCommand(), volumeMoveCommand(), volumeSalvageCommand(), volumeForgetReplicaCommand())
	return cmd
}

func volumeListCommand() *cobra.Command {
	var f clusterFlags
	var output outputFlag
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List all volumes and how they are",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := output.check(); err != nil {
				return err
			}
			return f.with(cmd.Context(), func(o *operator.Operator) error { return listVolumes(cmd.Context(), o, output, cmd.OutOrStdout()) })
		},
	}
	f.add(cmd)
	output.add(cmd)
	return cmd
}

func listVolumes(ctx context.Context, o *operator.Operator, output outputFlag, out io.Writer) error {
	volumes, err := o.Volumes(ctx)
	if err != nil {
		return err
	}
	sight := o.Look(ctx)
	rows := make([]operator.Summary, 0, len(volumes))
	for _, v := range volumes {
		rows = append(rows, operator.Summarize(v, sight))
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

// table prints columns, as wide as their widest cell.
type table struct{ w *tabwriter.Writer }

func newTable(out io.Writer, columns ...string) table {
	t := table{w: tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)}
	t.row(columns...)
	return t
}

func (t table) row(cells ...string) { fmt.Fprintln(t.w, strings.Join(cells, "\t")) }

func (t table) flush() { _ = t.w.Flush() } // as with any other print to the command's output

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// bytesText writes a size in the largest unit that leaves a number above 1, with one decimal where it isn't whole.
func bytesText(n int64) string {
	units := []string{"B", "KiB", "MiB", "GiB", "TiB"}
	value, unit := float64(n), 0
	for value >= 1024 && unit < len(units)-1 {
		value, unit = value/1024, unit+1
	}
	return strings.TrimSuffix(fmt.Sprintf("%.1f", value), ".0") + " " + units[unit]
}

// ago writes how long ago something was, in its largest unit.
func ago(d time.Duration) string {
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%d s ago", int(max(0, d).Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%d min ago", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h ago", int(d.Hours()))
	}
	return fmt.Sprintf("%d days ago", int(d.Hours()/24))
}
