package random_test

import (
	"context"
	"fmt"
	"path/filepath"
	"strconv"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/holdfast-csi/holdfast/spdk/volume"
)

// volumeCount is how many volumes there may be at a time.
const volumeCount = 4

// stage is how far a volume is in its life with the CO.
type stage int

// Stages.
const (
	absent stage = iota
	created
	published // to a node, by the controller
	staged
	inUse // published by the node service
)

var stageNames = []string{"absent", "created", "published", "staged", "in use"}

func (s stage) String() string { return stageNames[s] }

// vol is what the CO knows of a volume. Below done everything is certain; what lies above, up to reach, was begun and failed. The
// CO does again what failed, or undoes it.
type vol struct {
	client

	replicas    int
	thin, block bool
	// sizeBytes is what it was made with, grownBytes what it was last asked to have.
	sizeBytes, grownBytes int64
	// mutable is what it was last asked to be modified to; replicas is the number that it was made with.
	mutable map[string]string

	goal, done, reach stage
	deleting          bool // DeleteVolume was called: nothing else may follow
	host              *host
	incarnation       int
	model             *model
	io                []*transfer
	// history has the writes of each incarnation, windows are those that it is looked at through.
	history map[int][]*transfer
	windows []*window
	// from is the snapshot that it is made of, cloned the window through which another volume is.
	from   *snap
	cloned *window
	// broken: all good replicas were out of reach for so long that I/O may fail, until the volume is published anew.
	broken        bool
	hopelessSince time.Time
	// promisedAt is since when one thing has been wrong, and only one, after all was well: I/O goes on then. Zero if that isn't so.
	promisedAt time.Time
	// usableSince is when it last came into use.
	usableSince time.Time
	// excused: that was the work of several faults at once. It may take an operator to say which replica is good.
	excused bool
}

func (v *vol) id() string { return volume.IDFor(v.name) }

// draw makes a new volume of the name.
func (v *vol) draw() {
	rng := v.w.rng
	v.incarnation++
	v.replicas, v.thin, v.block = 1+rng.IntN(3), rng.IntN(2) == 0, rng.IntN(2) == 0
	if v.replicas == 1 && rng.IntN(2) == 0 {
		v.replicas = 3
	}
	v.sizeBytes = 8 * mib << rng.IntN(2)
	v.grownBytes, v.mutable = v.sizeBytes, nil
	v.model, v.windows = newModel(v.name, v.incarnation, v.sizeBytes-mib), nil
	v.drawContent()
	v.broken, v.hopelessSince, v.excused = false, time.Time{}, false
}

// is says whether the volume is at that stage, as far as the CO knows, and nothing is uncertain.
func (v *vol) is(s stage) bool { return v.done == s && v.reach == s }

// promised says whether I/O must go on without a long wait and without an error.
func (v *vol) promised() bool { return !v.promisedAt.IsZero() }

// stranded says whether only an operator can help.
func (v *vol) stranded() bool {
	record := v.w.store.peek(v.id())
	return v.excused && record != nil && record.Phase == volume.PhaseReady && len(record.InState(volume.ReplicaInSync)) == 0
}

func (v *vol) parameters() map[string]string {
	return map[string]string{
		volume.ParamReplicas: strconv.Itoa(v.replicas), volume.ParamThin: strconv.FormatBool(v.thin),
		volume.ParamReplicaStallBudget: budgets.ReplicaStall.String(), volume.ParamTargetLossBudget: budgets.TargetLoss.String(),
	}
}

func (v *vol) capability() *csi.VolumeCapability {
	c := &csi.VolumeCapability{AccessMode: &csi.VolumeCapability_AccessMode{Mode: csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER}}
	if v.block {
		c.AccessType = &csi.VolumeCapability_Block{Block: &csi.VolumeCapability_BlockVolume{}}
	} else {
		c.AccessType = &csi.VolumeCapability_Mount{Mount: &csi.VolumeCapability_MountVolume{FsType: "ext4"}}
	}
	return c
}

func (v *vol) staging() string { return filepath.Join(v.w.dir, v.host.name, "staging", v.name) }
func (v *vol) target() string  { return filepath.Join(v.w.dir, v.host.name, "pods", v.name) }

// begin starts a CSI call in a process of the driver, after which nothing is promised of its I/O.
func (v *vol) begin(what string, p *process, f func(ctx context.Context) error, settle func(err error)) {
	v.unpromise()
	v.client.begin(what, p, f, settle)
}

func (v *vol) unpromise() { v.promisedAt = time.Time{} }

// climb begins the call that leads to a stage, or repeats it.
func (v *vol) climb(to stage) {
	if to == created && v.done == absent && v.reach == absent {
		v.draw()
	}
	if to == published && v.reach < published {
		v.host = v.w.hosts[v.w.rng.IntN(len(v.w.hosts))]
	}
	v.reach = max(v.reach, to)
	settle := func(err error) {
		if err == nil && to == created && v.done < created {
			v.wasMade()
		}
		if err == nil {
			v.done, v.usableSince = max(v.done, to), time.Now()
		}
	}
	switch to {
	case created:
		v.begin(v.made()+fmt.Sprintf("create with %d replicas, thin: %t, block: %t, %d MiB", v.replicas, v.thin, v.block, v.sizeBytes/mib), v.w.controller.process, v.create, settle)
	case published:
		v.begin("publish to "+v.host.name, v.w.controller.process, v.publish, settle)
	case staged:
		v.begin("stage", v.host.process, v.stage, settle)
	case inUse:
		v.begin("node-publish", v.host.process, v.nodePublish, settle)
	}
}

// descend begins the call that undoes the stage that was reached.
func (v *vol) descend() {
	from := v.reach
	v.done = min(v.done, from-1)
	settle := func(err error) {
		if err == nil {
			v.reach = from - 1
		}
		if err == nil && from == published {
			v.broken, v.hopelessSince = false, time.Time{}
		}
		v.deleting = v.deleting && err != nil
		if err == nil && from == created {
			v.unmade()
		}
	}
	switch from {
	case created:
		v.deleting = true
		v.begin("delete", v.w.controller.process, v.delete, settle)
	case published:
		v.begin("unpublish from "+v.host.name, v.w.controller.process, v.unpublish, settle)
	case staged:
		v.begin("unstage", v.host.process, v.unstage, settle)
	case inUse:
		v.begin("node-unpublish", v.host.process, v.nodeUnpublish, settle)
	}
}

// expand begins a call that makes the volume larger, or repeats one.
func (v *vol) expand() {
	rng := v.w.rng
	if v.grownBytes < 4*v.sizeBytes && rng.IntN(2) == 0 {
		v.grownBytes += 4 * mib
	}
	what := fmt.Sprintf("expand to %d MiB", v.grownBytes/mib)
	settle := func(error) {}
	if v.done >= staged && rng.IntN(2) == 0 {
		v.begin("node-"+what, v.host.process, v.nodeExpand, settle)
		return
	}
	v.begin(what, v.w.controller.process, v.controllerExpand, settle)
}

func (v *vol) controllerExpand(ctx context.Context) error {
	_, err := v.w.controller.ControllerExpandVolume(ctx, &csi.ControllerExpandVolumeRequest{
		VolumeId: v.id(), CapacityRange: &csi.CapacityRange{RequiredBytes: v.grownBytes}, VolumeCapability: v.capability(),
	})
	return err
}

func (v *vol) nodeExpand(ctx context.Context) error {
	_, err := v.host.NodeExpandVolume(ctx, &csi.NodeExpandVolumeRequest{VolumeId: v.id(), VolumePath: v.staging(), VolumeCapability: v.capability()})
	return err
}

func (v *vol) create(ctx context.Context) error {
	_, err := v.w.controller.CreateVolume(ctx, &csi.CreateVolumeRequest{
		Name: v.name, CapacityRange: &csi.CapacityRange{RequiredBytes: v.sizeBytes, LimitBytes: v.sizeBytes},
		VolumeCapabilities: []*csi.VolumeCapability{v.capability()}, Parameters: v.parameters(), VolumeContentSource: v.contentSource(),
	})
	return err
}

func (v *vol) publish(ctx context.Context) error {
	_, err := v.w.controller.ControllerPublishVolume(ctx, &csi.ControllerPublishVolumeRequest{
		VolumeId: v.id(), NodeId: v.host.name, VolumeCapability: v.capability(),
	})
	return err
}

func (v *vol) stage(ctx context.Context) error {
	_, err := v.host.NodeStageVolume(ctx, &csi.NodeStageVolumeRequest{
		VolumeId: v.id(), StagingTargetPath: v.staging(), VolumeCapability: v.capability(),
	})
	return err
}

func (v *vol) nodePublish(ctx context.Context) error {
	_, err := v.host.NodePublishVolume(ctx, &csi.NodePublishVolumeRequest{
		VolumeId: v.id(), StagingTargetPath: v.staging(), TargetPath: v.target(), VolumeCapability: v.capability(),
	})
	return err
}

func (v *vol) nodeUnpublish(ctx context.Context) error {
	_, err := v.host.NodeUnpublishVolume(ctx, &csi.NodeUnpublishVolumeRequest{VolumeId: v.id(), TargetPath: v.target()})
	return err
}

func (v *vol) unstage(ctx context.Context) error {
	_, err := v.host.NodeUnstageVolume(ctx, &csi.NodeUnstageVolumeRequest{VolumeId: v.id(), StagingTargetPath: v.staging()})
	return err
}

func (v *vol) unpublish(ctx context.Context) error {
	_, err := v.w.controller.ControllerUnpublishVolume(ctx, &csi.ControllerUnpublishVolumeRequest{VolumeId: v.id(), NodeId: v.host.name})
	return err
}

func (v *vol) delete(ctx context.Context) error {
	_, err := v.w.controller.DeleteVolume(ctx, &csi.DeleteVolumeRequest{VolumeId: v.id()})
	return err
}
