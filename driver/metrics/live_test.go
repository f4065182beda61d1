package metrics_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"

	"github.com/holdfast-csi/holdfast/spdk/volume"
	"github.com/holdfast-csi/holdfast/test/cluster"
)

// A replica's node and then the raid host are lost under load: what the metrics say of it is what happened, and docs/metrics.md lists them all.
func TestMetricsTellWhatHappensToAVolume(t *testing.T) {
	var moments []moment
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		id := b.use("pvc-1")
		v := b.Record(id)
		device, err := b.machine.Device(b.ctx, v.NQN(), v.UUID)
		b.must(err)
		file, err := b.machine.Open(device.Path)
		b.must(err)
		load := cluster.StartLoad(b.ctx, file, 8, 2, 50*time.Millisecond)
		call(b, b.controlling, "CreateSnapshot", b.controller.CreateSnapshot, &csi.CreateSnapshotRequest{Name: "s", SourceVolumeId: id})

		b.refused()
		moments = append(moments, b.moment())
		b.refused()
		lost := b.thirdNode(id)
		b.Sim(lost).Kill()
		b.await("the loss shows", func() bool { return b.sample(b.using, goodReplicasOf(id)) == "2" })
		b.await("the node is seen to be down", func() bool { return b.sample(b.controlling, `holdfast_spdk_node_up{spdk_node="`+lost+`"}`) == "0" })
		moments = append(moments, b.moment())
		b.await("a rebuild shows", func() bool {
			return b.sample(b.using, `holdfast_staged_volume_rebuild_ratio{volume="pvc-1",volume_id="`+id+`"}`) != ""
		})
		moments = append(moments, b.moment())
		rebuilding, _ := b.scrape(b.using)
		b.must(b.Sim(lost).Restart())
		b.awaitWhole(id)

		from := b.Record(id).Assembly.RaidHost
		b.Sim(from).Kill()
		b.await("the volume runs elsewhere", func() bool { v := b.Record(id); return v.Assembly.RaidHost != from && !v.Assembly.Held })
		b.must(b.Sim(from).Restart())
		b.awaitWhole(id)
		b.await("a sweep has seen that", func() bool {
			return b.sample(b.controlling, `holdfast_volumes{condition="healthy",staged="yes"}`) == "1"
		})
		b.must(load.End())

		moments = append(moments, b.moment())
		using, usingText := b.scrape(b.using)
		controlling, controllingText := b.scrape(b.controlling)
		using["holdfast_staged_volume_rebuild_ratio"] = rebuilding["holdfast_staged_volume_rebuild_ratio"]
		b.want(using, map[string]string{
			`holdfast_build_info{goversion="`:                                                         "1", // and the versions
			`holdfast_failovers_total{cause="killed"}`:                                                "1",
			`holdfast_failovers_total{cause="hung"}`:                                                  "0",
			`holdfast_failover_duration_seconds_count{cause="killed"}`:                                "1",
			`holdfast_staged_volume_failovers_total{volume="pvc-1",volume_id="` + id + `"}`:           "1",
			`holdfast_snapshot_pause_duration_seconds_count{result="taken"}`:                          "1",
			`holdfast_staged_volumes{condition="healthy"}`:                                            "1",
			`holdfast_staged_legs{state="member"}`:                                                    "3",
			`holdfast_staged_replicas{state="in-sync"}`:                                               "3",
			`holdfast_paths{state="live"}`:                                                            "2",
			`holdfast_staged_volume_io_waiting_seconds{volume="pvc-1",volume_id="` + id + `"}`:        "0",
			`holdfast_csi_call_duration_seconds_count{code="OK",method="NodeStageVolume"}`:            "1",
			`holdfast_spdk_node_up{spdk_node="` + b.Record(id).Assembly.RaidHost + `"}`:               "1",
			`holdfast_rebuild_duration_seconds_count{result="failed"}`:                                "0",
			`holdfast_certificate_expiry_timestamp_seconds`:                                           "1.893553445e+09",
			`holdfast_spdk_node_call_duration_seconds_count{outcome="unreachable",spdk_node="` + lost: "",
		})
		b.want(controlling, map[string]string{
			`holdfast_replica_replacements_total`:                                           "",
			`holdfast_volumes{condition="healthy",staged="yes"}`:                            "1",
			`holdfast_snapshots{phase="ready"}`:                                             "1",
			`holdfast_orphan_lvols{spdk_node="n1"}`:                                         "0",
			`holdfast_lvstore_size_bytes{lvstore="pool",spdk_node="n1"}`:                    "",
			`holdfast_csi_call_duration_seconds_count{code="OK",method="CreateVolume"}`:     "1",
			`holdfast_spdk_call_duration_seconds_count{method="bdev_lvol_create",outcome="`: "",
			`holdfast_last_sweep_timestamp_seconds`:                                         "",
		})
		wantDocumented(t, ours(controlling), ours(using))
		for _, registry := range []*prometheus.Registry{b.using.registry, b.controlling.registry} {
			for name := range described(registry) {
				if _, ok := readDocs(t)[name]; !ok && strings.HasPrefix(name, "holdfast_") {
					t.Errorf("docs/metrics.md lacks %s, which is registered", name)
				}
			}
		}
		for _, text := range []string{usingText, controllingText} {
			problems, err := promlint.New(strings.NewReader(text)).Lint()
			b.must(err)
			for _, p := range problems {
				t.Errorf("%s: %s", p.Metric, p.Text)
			}
		}
	})
	t.Run("the dashboard's queries return data", func(t *testing.T) { wantAnswers(t, moments) })
}

// refused makes a call that the controller refuses.
func (b *bench) refused() {
	b.t.Helper()
	if _, err := try(b, b.controlling, "CreateSnapshot", b.controller.CreateSnapshot, &csi.CreateSnapshotRequest{Name: "none", SourceVolumeId: "absent"}); err == nil {
		b.t.Error("a snapshot of a volume that isn't there was taken")
	}
}

// moment scrapes both processes, as two instances.
func (b *bench) moment() moment {
	b.t.Helper()
	m := moment{}
	for instance, p := range map[string]*process{"node": b.using, "controller": b.controlling} {
		families, _ := b.scrape(p)
		for _, f := range families {
			for sample, value := range f.samples {
				name, labels, _ := strings.Cut(strings.TrimSuffix(sample, "}"), "{")
				m[fmt.Sprintf(`%s{instance="%s",%s}`, name, instance, labels)] = value
			}
		}
	}
	return m
}

// want compares samples with those that begin so; "" is any value but zero.
func (b *bench) want(families map[string]*family, want map[string]string) {
	b.t.Helper()
	for begin, value := range want {
		found := false
		for _, f := range families {
			for sample, got := range f.samples {
				if strings.HasPrefix(sample, begin) {
					found = true
					if got != value && value != "" || value == "" && got == "0" {
						b.t.Errorf("%s is %s, want %s", sample, got, value)
					}
				}
			}
		}
		if !found {
			b.t.Errorf("no sample begins with %s", begin)
		}
	}
}

// sample returns one value, "" if there is none.
func (b *bench) sample(p *process, name string) string {
	b.t.Helper()
	families, _ := b.scrape(p)
	for _, f := range families {
		if value, ok := f.samples[name]; ok {
			return value
		}
	}
	return ""
}

func goodReplicasOf(id string) string {
	return `holdfast_staged_volume_good_replicas{volume="pvc-1",volume_id="` + id + `"}`
}

// thirdNode returns a node with a replica that is neither the raid host nor the standby's.
func (b *bench) thirdNode(id string) string {
	b.t.Helper()
	v := b.Record(id)
	for _, r := range v.InState(volume.ReplicaInSync) {
		if r.Node != v.Assembly.RaidHost && r.Node != v.Standby.RaidHost {
			return r.Node
		}
	}
	b.t.Fatal("no such node")
	return ""
}

func TestProcessIsReadyAsLongAsItsStoreAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		for _, c := range []struct {
			path  string
			ready func(context.Context) error
			want  int
		}{
			{"/healthz", func(context.Context) error { return errors.New("the secret place is away") }, http.StatusOK},
			{"/readyz", nil, http.StatusOK},
			{"/readyz", func(context.Context) error { return nil }, http.StatusOK},
			{"/readyz", func(context.Context) error { return errors.New("the secret place is away") }, http.StatusServiceUnavailable},
			{"/readyz", func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }, http.StatusServiceUnavailable},
			{"/debug/pprof/", nil, http.StatusNotFound},
		} {
			code, body := b.get(b.using, c.path, c.ready)
			if code != c.want || strings.Contains(body, "secret") {
				t.Errorf("%s: %d %q, want %d and no reason", c.path, code, body, c.want)
			}
		}
	})
}
