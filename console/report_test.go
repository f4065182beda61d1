package console

import (
	"errors"
	"flag"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"

	"github.com/holdfast-csi/holdfast/spdk"
	"github.com/holdfast-csi/holdfast/spdk/operator"
	"github.com/holdfast-csi/holdfast/spdk/volume"
)

var update = flag.Bool("update", false, "write the golden files, and what docs show of them")

// shownIn is the page that shows the golden files.
const shownIn = "../docs/kubernetes.md"

// golden compares what a command prints with testdata/NAME.txt, and with the block of that name in the documentation.
func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name+".txt")
	page, err := os.ReadFile(shownIn)
	if err != nil {
		t.Fatal(err)
	}
	block := regexp.MustCompile("(?s)(<!-- printed by testdata/" + name + " -->\n```\n[^\n]*\n)(.*?)(```\n)")
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		page = block.ReplaceAll(page, []byte("${1}"+strings.ReplaceAll(got, "$", "$$")+"${3}"))
		if err := os.WriteFile(shownIn, page, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s is\n%s\nand not\n%s\n(go test ./console -update writes it)", name, got, want)
	}
	if shown := block.FindSubmatch(page); shown == nil || string(shown[2]) != got {
		t.Errorf("%s does not show %s as it is printed (go test ./console -update writes it)", shownIn, name)
	}
}

// damaged is a cluster with something of everything.
func damaged(t *testing.T) (b *bench, rebuilt *volume.Volume) {
	b = newBench(t)
	b.spdkNode("n1", "a", 61, false)
	b.spdkNode("n2", "b", 48, false)
	b.spdkNode("n3", "c", 55, false)
	b.spdkNode("n4", "a", 70, true)
	b.volume("shop/images", 128, func(v *volume.Volume) { runOn(v, "n2", "n3", "worker-2") }, "n1", "n2", "n3")
	b.volume("shop/scratch", 64, func(*volume.Volume) {}, "n2")
	b.volume("blog/db", 32, func(v *volume.Volume) {
		v.SetReplicaState(v.Replicas[1].ID, volume.ReplicaOutOfSync, now.Add(-4*time.Minute))
		runOn(v, "n1", "n3", "worker-3")
	}, "n1", "n4")
	b.volume("lab/archive", 96, func(*volume.Volume) {}, "n4")
	rebuilt = b.volume("shop/orders", 256, func(v *volume.Volume) {
		v.SetReplicaState(v.Replicas[2].ID, volume.ReplicaRebuilding, now.Add(-95*time.Second))
		runOn(v, "n1", "n2", "worker-1")
	}, "n1", "n2", "n3")
	raid := spdk.RaidState{Name: rebuilt.RaidName(), State: spdk.RaidOnline}
	for _, r := range rebuilt.Replicas {
		name := rebuilt.LegController(r)
		raid.Slots = append(raid.Slots, spdk.RaidSlot{Bdev: spdk.LegBdev(name), Configured: true})
		b.sight["n1"].Health.Controllers[name] = spdk.LegState{State: spdk.LegEnabled}
	}
	raid.Rebuild = &spdk.RebuildProgress{Target: raid.Slots[2].Bdev, Percent: 42}
	b.sight["n1"].Health.Raids[raid.Name] = raid
	b.lead(3 * time.Second)
	b.show()
	b.want(node, "cordon", "n3")
	return b, rebuilt
}

// node is the command that the program makes of NodeCommands.
func node(c Cluster) *cobra.Command {
	cmd := &cobra.Command{Use: "node", SilenceErrors: true, SilenceUsage: true}
	cmd.AddCommand(c.NodeCommands()...)
	return cmd
}

func TestStatusShowsTheClusterAtAGlance(t *testing.T) {
	b, _ := damaged(t)
	golden(t, "status", b.want(Cluster.StatusCommand))
	if out := b.want(Cluster.StatusCommand, "-o", "json"); !strings.Contains(out, `"claim": "shop/orders"`) || !strings.Contains(out, `"at risk": 1`) {
		t.Errorf("as JSON it is %s", out)
	}
}

func TestVolumeShowsItsTree(t *testing.T) {
	b, v := damaged(t)
	// The tree says how long ago things were by the clock of the machine.
	ago := regexp.MustCompile(` \([0-9]+ (s|min|h|days) ago\)`)
	tree := ago.ReplaceAllString(b.want(Cluster.VolumeCommand, "shop/orders"), "")
	golden(t, "volume", tree)
	for what, name := range map[string]string{"the ID": v.ID, "the PersistentVolume": v.Name, "the claim in the namespace": "orders"} {
		if out := ago.ReplaceAllString(b.want(Cluster.VolumeCommand, name), ""); out != tree {
			t.Errorf("by %s it is\n%s", what, out)
		}
	}
	if _, err := b.run(Cluster.VolumeCommand, "blog/orders"); !errors.Is(err, volume.ErrNotFound) || !strings.Contains(err.Error(), "no claim orders in namespace blog") {
		t.Errorf("a claim that is not there: %v", err)
	}
}

func TestWhatNeedsTheSPDKNodesAskedIsRefusedByReport(t *testing.T) {
	b, v := damaged(t)
	for what, run := range map[string]func() (string, error){
		"salvage": func() (string, error) {
			return b.run(Cluster.VolumeCommand, "salvage", "lab/archive", "--replica", "00000004", "--yes-lose-writes")
		},
		"forget": func() (string, error) { return b.run(node, "forget", "n4", "--yes-never-returns") },
		"forget-replica": func() (string, error) {
			return b.run(Cluster.VolumeCommand, "forget-replica", v.ID, "--replica", "00000003", "--yes-never-returns")
		},
		"orphans": func() (string, error) { return b.run(Cluster.OrphansCommand) },
	} {
		if _, err := run(); !errors.Is(err, operator.ErrNotAsked) && !errors.Is(err, operator.ErrRefused) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func TestOldReportIsSaidToBeOldAndNoGroundForADrain(t *testing.T) {
	b, _ := damaged(t)
	b.lead(10 * time.Minute)
	if out := b.want(Cluster.StatusCommand); !strings.Contains(out, "may be old: no controller leads; the lease of holdfast-controller-7c9d8f6b5-x2kqv ran out at 2026-11-23T01:50:15Z") {
		t.Errorf("the status is\n%s", out)
	}
	if _, err := b.run(node, "drain", "n2"); !errors.Is(err, operator.ErrRefused) {
		t.Errorf("drain: %v", err)
	}
}

func TestMoveDrainAndNodeListWorkByReport(t *testing.T) {
	b, v := damaged(t)
	b.want(Cluster.VolumeCommand, "move", "shop/images", "--to", "n1", "--no-wait")
	if out := b.want(node, "list"); !strings.Contains(out, "n4    no") || !strings.Contains(out, "no route to host") {
		t.Errorf("the list is\n%s", out)
	}
	if out := b.want(node, "drain", "n3"); !strings.Contains(out, "n3 holds 1 good replicas") || !strings.Contains(out, "n3 may be stopped.") {
		t.Errorf("the drain of a node that is no raid host says\n%s", out)
	}
	if _, err := b.run(Cluster.VolumeCommand, "move", v.ID, "--to", "n4", "--no-wait"); !errors.Is(err, volume.ErrNodeDown) {
		t.Errorf("move to a node that is silent: %v", err)
	}
}
