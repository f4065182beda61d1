package metrics_test

import (
	"strconv"
	"testing"
	"testing/synctest"

	"github.com/holdfast-csi/holdfast/node"
	"github.com/holdfast-csi/holdfast/spdk/volume"
)

func TestFailoversAreCountedByTheirCause(t *testing.T) {
	for _, c := range []struct {
		cause node.Cause
		// fault has the volume leave its raid host, end makes the node work again.
		fault, end func(b *bench, id, raidHost string)
		// stays: the volume may run on where it did.
		stays bool
		// longest is what the failover may take, in seconds.
		longest float64
	}{
		{
			cause: node.CauseHung, longest: 10,
			fault: func(b *bench, _, raidHost string) { b.Sim(raidHost).Hang(true) },
			end:   func(b *bench, _, raidHost string) { b.Sim(raidHost).Hang(false) },
		},
		{
			cause: node.CauseRestarted, longest: 10, stays: true,
			fault: func(b *bench, _, raidHost string) {
				b.Sim(raidHost).Kill()
				b.must(b.Sim(raidHost).Restart())
			},
		},
		{
			cause: node.CausePlanned, longest: 5,
			fault: func(b *bench, id, _ string) {
				_, err := volume.Modify(b.ctx, b.Store, id, func(v *volume.Volume) (bool, error) {
					v.MoveTo = v.Standby.RaidHost
					return true, nil
				})
				b.must(err)
			},
		},
	} {
		t.Run(string(c.cause), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t)
				id := b.use("pvc-1")
				before := b.Record(id).Assembly
				c.fault(b, id, before.RaidHost)
				label := `{cause="` + string(c.cause) + `"}`
				b.await("the failover has ended", func() bool { return b.sample(b.using, "holdfast_failover_duration_seconds_count"+label) == "1" })
				if after := b.Record(id).Assembly; !c.stays && after.RaidHost == before.RaidHost {
					t.Errorf("it still runs on %s", after.RaidHost)
				}
				if c.end != nil {
					c.end(b, id, before.RaidHost)
				}
				b.awaitWhole(id)
				families, _ := b.scrape(b.using)
				b.want(families, map[string]string{"holdfast_failovers_total" + label: "1"})
				for sample, value := range families["holdfast_failovers_total"].samples {
					if sample != "holdfast_failovers_total"+label && value != "0" {
						t.Errorf("%s is %s", sample, value)
					}
				}
				took, err := strconv.ParseFloat(families["holdfast_failover_duration_seconds"].samples["holdfast_failover_duration_seconds_sum"+label], 64)
				if err != nil || took <= 0 || took > c.longest {
					t.Errorf("it took %g s, %v", took, err)
				}
			})
		})
	}
}

// A volume without a standby: its raid host is away for a while, and so I/O waits.
func TestIOThatWaitsIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		id := b.stage("pvc-1", "1")
		raidHost := b.Record(id).Assembly.RaidHost
		waiting := `holdfast_staged_volume_io_waiting_seconds{volume="pvc-1",volume_id="` + id + `"}`
		b.await("the path is up", func() bool {
			return b.sample(b.using, waiting) == "0" && b.sample(b.using, `holdfast_paths{state="live"}`) == "1"
		})
		b.Sim(raidHost).Kill()
		b.await("I/O waits for ten seconds", func() bool {
			seconds, err := strconv.ParseFloat(b.sample(b.using, waiting), 64)
			return err == nil && seconds >= 10
		})
		families, _ := b.scrape(b.using)
		b.want(families, map[string]string{
			`holdfast_staged_volumes{condition="waiting"}`: "1",
			goodReplicasOf(id): "0",
			`holdfast_spdk_node_up{spdk_node="` + raidHost + `"}`: "0",
			`holdfast_path_reconnects_total`:                      "0",
		})
		b.must(b.Sim(raidHost).Restart())
		b.await("the path is up again", func() bool {
			return b.sample(b.using, "holdfast_path_reconnects_total") == "1" && b.sample(b.using, waiting) == "0"
		})
		b.await("its replica is good", func() bool { return b.sample(b.using, goodReplicasOf(id)) == "1" })
		families, _ = b.scrape(b.using)
		b.want(families, map[string]string{`holdfast_failovers_total{cause="killed"}`: "1", `holdfast_failover_duration_seconds_count{cause="killed"}`: "1"})
	})
}
