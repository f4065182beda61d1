package console

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/holdfast-csi/holdfast/spdk/condition"
	"github.com/holdfast-csi/holdfast/spdk/operator"
	"github.com/holdfast-csi/holdfast/spdk/volume"
)

func (c Cluster) volumeShowCommand() *cobra.Command {
	f := c()
	var output outputFlag
	var watch time.Duration
	cmd := &cobra.Command{
		Use:   "show VOLUME",
		Short: "Show what a volume is made of and how each part is",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := output.check(); err != nil {
				return err
			}
			if watch < 0 {
				return fmt.Errorf("--watch %s must be positive", watch)
			}
			return with(cmd.Context(), f, func(o *operator.Operator) error {
				if watch > 0 {
					return watchVolume(cmd.Context(), o, args[0], watch, output, cmd.OutOrStdout())
				}
				d, err := o.Show(cmd.Context(), args[0])
				if err != nil {
					return err
				}
				return output.print(cmd.OutOrStdout(), d, func(out io.Writer) { printVolume(out, d, time.Now()) })
			})
		},
	}
	f.AddFlags(cmd)
	output.add(cmd)
	cmd.Flags().DurationVarP(&watch, "watch", "w", 0, "show it again at this interval, 2s if none is given, until interrupted; as JSON, one object a line")
	cmd.Flags().Lookup("watch").NoOptDefVal = "2s"
	return cmd
}

// watchVolume shows a volume again and again, on a terminal in the same place. It ends without an error when it is interrupted.
func watchVolume(ctx context.Context, o *operator.Operator, name string, interval time.Duration, output outputFlag, out io.Writer) error {
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for {
		d, err := o.Show(ctx, name)
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, volume.ErrNotFound):
			return err
		case err != nil:
			fmt.Fprintf(out, "%v\n", err)
		case output.format == "json":
			if err := json.NewEncoder(out).Encode(d); err != nil {
				return err
			}
		default:
			if isTerminal(out) {
				fmt.Fprint(out, "\x1b[H\x1b[J") // ECMA-48: cursor home, erase below
			}
			printVolume(out, d, time.Now())
			fmt.Fprintln(out)
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// branch is a line of a tree and what hangs on it.
type branch struct {
	text     string
	children []branch
}

func (b branch) print(out io.Writer, first, rest string) {
	fmt.Fprintln(out, strings.TrimRight(first+b.text, " "))
	for i, child := range b.children {
		if i < len(b.children)-1 {
			child.print(out, rest+"├─ ", rest+"│  ")
		} else {
			child.print(out, rest+"└─ ", rest+"   ")
		}
	}
}

// growthBranch says which replicas have not grown yet.
func growthBranch(d operator.Detail) branch {
	v := d.Record
	grows := branch{text: fmt.Sprintf("grows from %s to %s", bytesText(v.GrowingFrom), bytesText(v.SizeBytes))}
	for _, r := range d.Replicas {
		if r.SizeBytes > 0 && r.SizeBytes < v.SizeBytes {
			grows.children = append(grows.children, branch{text: fmt.Sprintf("replica %s on %s has %s", r.ID, r.Node, bytesText(r.SizeBytes))})
		}
	}
	return grows
}

func printVolume(out io.Writer, d operator.Detail, now time.Time) {
	v := d.Record
	root := branch{text: fmt.Sprintf("%s  %s  %s  %s", v.Name, v.ID, bytesText(v.SizeBytes), d.Condition)}
	if d.Claim != "" {
		root.text = d.Claim + "  " + root.text
	}
	for _, f := range d.Findings {
		root.children = append(root.children, branch{text: fmt.Sprintf("%s: %s", f.Reason, f.Message)})
	}
	if v.GrowingFrom > 0 {
		root.children = append(root.children, growthBranch(d))
	}
	root.children = append(root.children, raidHostBranch(d))
	if v.Standby != nil {
		state := "being made"
		if v.Standby.Running {
			state = "ready"
		}
		root.children = append(root.children, branch{text: fmt.Sprintf("standby on %s, %s: assembly %d over %s", v.Standby.RaidHost, state, v.Standby.Number, strings.Join(v.Standby.Legs, ", "))})
	}
	replicas := branch{text: fmt.Sprintf("replicas: %d wanted", v.Parameters.Replicas)}
	for _, r := range d.Replicas {
		replicas.children = append(replicas.children, replicaBranch(r, now))
	}
	root.children = append(root.children, replicas)
	for i, a := range v.Retired {
		root.children = append(root.children, branch{text: fmt.Sprintf("former assembly %d on %s: %s", a.Number, a.RaidHost, waiting(d.RetiredProblems[i]))})
	}
	root.print(out, "", "")
	if d.Teller != nil {
		fmt.Fprintln(out, tellerText(*d.Teller))
	}
}

func waiting(problem string) string {
	if problem == "" {
		return "to be taken apart"
	}
	return "to be taken apart when that answers (" + problem + ")"
}

// raidHostBranch says where the volume runs, for whom, and how its legs are.
func raidHostBranch(d operator.Detail) branch {
	v := d.Record
	if v.Assembly == nil {
		return branch{text: "runs nowhere" + publishedText(v)}
	}
	b := branch{text: fmt.Sprintf("raid host %s, assembly %d%s", v.Assembly.RaidHost, v.Assembly.Number, publishedText(v))}
	switch {
	case v.Assembly.Stopping:
		b.text += "; it is being taken down"
	case v.Assembly.Held:
		b.text += "; it is taking over, and I/O waits for it"
	case v.MoveTo != "":
		b.text += "; it is asked to move to " + v.MoveTo
	}
	if d.RaidHostProblem != "" {
		b.children = append(b.children, branch{text: d.RaidHostProblem})
		return b
	}
	for _, id := range v.Assembly.Legs {
		for _, r := range d.Replicas {
			if r.ID == id {
				b.children = append(b.children, branch{text: fmt.Sprintf("leg %s on %s: %s", r.ID, r.Node, legText(r))})
			}
		}
	}
	return b
}

func publishedText(v *volume.Volume) string {
	text := ""
	for _, p := range v.Publications {
		text += ", published to " + p.Node
	}
	if v.Owner != "" {
		return text + ", staged on " + v.Owner
	}
	return text
}

func legText(r operator.ReplicaDetail) string {
	switch r.Leg {
	case condition.LegNone:
		return "not in the raid"
	case condition.LegFailing:
		return "member, but its connection is down"
	case condition.LegRebuilding:
		return "rebuilding " + progressBar(r.RebuildPercent)
	}
	return string(r.Leg)
}

func replicaBranch(r operator.ReplicaDetail, now time.Time) branch {
	text := fmt.Sprintf("%s on %s/%s  %s since %s (%s)", r.ID, r.Node, r.LvStore, r.State, r.Since.UTC().Format(time.RFC3339), ago(now.Sub(r.Since)))
	if r.SizeBytes > 0 {
		text += fmt.Sprintf(", %s allocated", bytesText(r.AllocatedBytes))
		if r.SharedBytes > 0 {
			text += fmt.Sprintf(", %s shared", bytesText(r.SharedBytes))
		}
	}
	if r.Strikes > 0 {
		text += fmt.Sprintf(", lost %d times soon after a rebuild or in one", r.Strikes)
	}
	b := branch{text: text}
	if wait := r.Since.Add(r.RebuildDelay()).Sub(now); r.State == volume.ReplicaOutOfSync && wait > 0 {
		b.children = append(b.children, branch{text: fmt.Sprintf("rebuilt again in %s at the earliest", wait.Round(time.Second))})
	}
	if r.Problem != "" {
		b.children = append(b.children, branch{text: r.Problem})
	}
	return b
}
