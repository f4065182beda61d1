package console

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/holdfast-csi/holdfast/spdk/condition"
	"github.com/holdfast-csi/holdfast/spdk/operator"
	"github.com/holdfast-csi/holdfast/spdk/volume"
)

// StatusCommand shows the cluster at a glance.
func (c Cluster) StatusCommand() *cobra.Command {
	return c.look(&cobra.Command{Use: "status", Short: "Show the cluster at a glance: volumes by state, what is at risk, rebuilds, SPDK nodes", Args: cobra.NoArgs}, showStatus)
}

func showStatus(ctx context.Context, o *operator.Operator, output outputFlag, out io.Writer) error {
	s, err := o.Status(ctx)
	if err != nil {
		return err
	}
	return output.print(out, s, func(out io.Writer) { printStatus(out, s) })
}

// stateOrder is how states are listed, the worst first.
var stateOrder = []condition.State{
	condition.StateWaiting, condition.StateAtRisk, condition.StateDegraded, condition.StateRebuilding, condition.StateCreating, condition.StateDeleting, condition.StateHealthy,
}

func printStatus(out io.Writer, s operator.Status) {
	total := newTable(out)
	total.row("VOLUMES", countsText(stateOrder, s.States), fmt.Sprintf("%s, %d in use", bytesText(s.SizeBytes), s.InUse))
	answer, cordoned, free, size := 0, 0, int64(0), int64(0)
	for _, n := range s.Nodes {
		if n.Problem == "" {
			answer++
			free, size = free+n.FreeBytes, size+n.SizeBytes
		}
		if n.Cordoned {
			cordoned++
		}
	}
	total.row("SPDK NODES", fmt.Sprintf("%d of %d answer, %d cordoned", answer, len(s.Nodes), cordoned), fmt.Sprintf("%s free of %s", bytesText(free), bytesText(size)))
	total.row("SNAPSHOTS", countsText([]volume.SnapshotPhase{volume.SnapshotTaking, volume.SnapshotReady, volume.SnapshotDeleting}, s.Snapshots))
	total.flush()
	printTrouble(out, s.Troubled)
	printRebuilds(out, s)
	printCapacity(out, s.Nodes)
	if s.Teller != nil {
		fmt.Fprintf(out, "\n%s\n", tellerText(*s.Teller))
	}
}

// countsText lists what there is of each, in order.
func countsText[K ~string](order []K, counts map[K]int) string {
	var texts []string
	for _, k := range order {
		if n := counts[k]; n > 0 {
			texts = append(texts, fmt.Sprintf("%d %s", n, k))
		}
	}
	if len(texts) == 0 {
		return "none"
	}
	return strings.Join(texts, ", ")
}

func printTrouble(out io.Writer, troubled []operator.Trouble) {
	if len(troubled) == 0 {
		fmt.Fprintln(out, "\nNothing is wrong with any volume.")
		return
	}
	fmt.Fprintln(out, "\nWHAT IS WRONG, the worst first")
	t := newTable(out, "VOLUME", "STATE", "USED ON", "REASON")
	for _, v := range troubled {
		var reasons []string
		for _, f := range v.Findings {
			reasons = append(reasons, string(f.Reason))
		}
		t.row(volumeText(v.Summary), v.String(), orDash(strings.Join(v.PublishedTo, ",")), strings.Join(reasons, ", "))
	}
	t.flush()
}

func printRebuilds(out io.Writer, s operator.Status) {
	if len(s.Rebuilds) == 0 {
		return
	}
	fmt.Fprintln(out, "\nREBUILDS")
	t := newTable(out, "VOLUME", "REPLICA", "ON", "FOR", "PROGRESS")
	for _, r := range s.Rebuilds {
		progress := "not known"
		switch {
		case r.Progress != nil && r.Progress.Copied:
			progress = bar(100) + " settling"
		case r.Progress != nil:
			progress = progressBar(r.Progress.Percent)
		}
		t.row(volumeText(r.Summary), r.Replica, r.Node, s.At.Sub(r.Since).Round(time.Second).String(), progress)
	}
	t.flush()
}

func printCapacity(out io.Writer, nodes []operator.NodeSummary) {
	fmt.Fprintln(out, "\nSPDK NODES")
	t := newTable(out, "NAME", "ANSWERS", "CORDONED", "ZONE", "USED", "FREE", "RAID HOST OF", "STANDBYS", "REPLICAS", "NOT IN-SYNC")
	for _, n := range nodes {
		answers, used, free := "yes", "-", "-"
		if n.Problem != "" {
			answers = "no"
		}
		if n.SizeBytes > 0 {
			used, free = progressBar(int((n.SizeBytes-n.FreeBytes)*100/n.SizeBytes)), bytesText(n.FreeBytes)
		}
		t.row(n.Name, answers, yesOrDash(n.Cordoned), orDash(n.Zone), used, free, fmt.Sprint(n.Running), fmt.Sprint(n.Standbys), fmt.Sprint(n.Replicas), fmt.Sprint(n.NotInSync))
	}
	t.flush()
	printProblems(out, nodes)
}

// volumeText names a volume as its user knows it: by its claim if that is known.
func volumeText(s operator.Summary) string {
	if s.Claim != "" {
		return s.Claim
	}
	return s.Name
}
