//go:build e2e

package driver

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/holdfast-csi/holdfast/spdk"
	"github.com/holdfast-csi/holdfast/spdk/volume"
	"github.com/holdfast-csi/holdfast/test/stack"
	"github.com/holdfast-csi/holdfast/test/vm/load"
)

// modify asks for other mutable parameters, given as keys and values.
func (c *claim) modify(pairs ...string) {
	c.t.Helper()
	mutable := map[string]string{}
	for i := 0; i < len(pairs); i += 2 {
		mutable[pairs[i]] = pairs[i+1]
	}
	must(c.t, c.Do(c.t.Context(), "Modify "+strings.Join(pairs, " "), func(ctx context.Context) error {
		_, err := c.s.Controller.ControllerModifyVolume(ctx, &csi.ControllerModifyVolumeRequest{VolumeId: c.ID, MutableParameters: mutable})
		return err
	}))
}

// wantLimits waits until each raid of the volume that runs, the standby's included, has these limits at its target.
func (c *claim) wantLimits(want spdk.RateLimits) {
	c.t.Helper()
	var seen map[string]spdk.RateLimits
	for end := time.Now().Add(stack.Patience); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		v, err := c.Record(c.t.Context())
		must(c.t, err)
		seen = map[string]spdk.RateLimits{}
		inForce := true
		for _, a := range v.Running() {
			limits, found := c.limitsOn(a.RaidHost, v.RaidName())
			seen[a.RaidHost] = limits
			inForce = inForce && found && limits == want
		}
		if inForce && len(seen) == 2 {
			return
		}
	}
	c.t.Errorf("the limits are %+v, wanted are %+v", seen, want)
}

// limitsOn asks a target past the driver; a raid may be gone by now.
func (c *claim) limitsOn(node, raid string) (limits spdk.RateLimits, found bool) {
	c.t.Helper()
	target, err := c.s.Target(node)
	must(c.t, err)
	var bdevs []struct {
		Name   string
		Limits spdk.RateLimits `json:"assigned_rate_limits"`
	}
	must(c.t, target.Call(c.t.Context(), "bdev_get_bdevs", nil, &bdevs))
	for _, b := range bdevs {
		if b.Name == raid {
			return b.Limits, true
		}
	}
	return spdk.RateLimits{}, false
}

// whole waits until so many replicas, and no others, are in-sync.
func (c *claim) whole(replicas int) {
	c.t.Helper()
	c.until("it is whole", func(v *volume.Volume) bool {
		return len(v.InState(volume.ReplicaInSync)) == replicas && len(v.Replicas) == replicas
	})
}

// load has a file of the pod be written to and read, past the page cache, until wantLoad.
func (c *claim) load() stack.Load {
	c.t.Helper()
	l, err := c.s.Host.OpenLoad(c.t.Context(), c.Pod+"/load", 512)
	must(c.t, err)
	r, err := l.Fill(c.t.Context())
	if err != nil || r.Errors > 0 {
		c.t.Fatalf("fill the load's file: %+v, %v", r, err)
	}
	must(c.t, l.Run(c.t.Context(), load.Mix{Writers: 2, Readers: 1, FlushEvery: 8, Pace: 5 * time.Millisecond}))
	return l
}

// wantLoad ends a load, of which no I/O may have failed or have been lost.
func wantLoad(t *testing.T, l stack.Load) {
	t.Helper()
	seen, err := l.Pause(t.Context())
	must(t, err)
	r, err := l.Verify(t.Context())
	must(t, err)
	must(t, l.Close())
	t.Logf("%d I/O, the longest took %s", seen.Done(), seen.LongestPause.Round(time.Millisecond))
	if r.Errors > 0 || r.DifferingBytes > 0 || seen.Writes < 600 {
		t.Errorf("the load has seen %+v", r)
	}
}

// A pod writes while its volume is given limits, moves with them, and loses them, and while it gets a replica and loses one.
func TestVolumeIsModifiedWhileAPodWrites(t *testing.T) {
	s := run(t)
	c := newClaimThat(t, s, true, "ext4", map[string]string{volume.ParamReplicas: "2"})
	c.publish()
	c.standby()
	l := c.load()
	c.modify(volume.ParamWriteBandwidthLimit, "16Mi", volume.ParamIOPSLimit, "2000")
	limits := spdk.RateLimits{IOPerSec: 2000, WriteMiBPerSec: 16}
	c.wantLimits(limits)
	c.move()
	c.wantLimits(limits)
	c.modify(volume.ParamWriteBandwidthLimit, "none", volume.ParamIOPSLimit, "none")
	c.wantLimits(spdk.RateLimits{})
	c.modify(volume.ParamReplicas, "3", volume.ParamReadBandwidthLimit, "32Mi")
	c.whole(3)
	c.wantLimits(spdk.RateLimits{ReadMiBPerSec: 32})
	c.modify(volume.ParamReplicas, "2", volume.ParamReadBandwidthLimit, "none")
	c.whole(2)
	wantLoad(t, l)
	c.unpublish()
	v, err := c.Record(t.Context())
	must(t, err)
	if differing, err := s.CompareReplicas(t.Context(), v); err != nil || differing > 0 {
		t.Errorf("%d bytes differ among the replicas %+v, %v", differing, v.Replicas, err)
	}
	c.delete()
	s.wantNothingLeft(t)
}
