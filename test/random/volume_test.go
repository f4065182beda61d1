package random_test

import (
	"context"
	"fmt"
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
	absent    stage = iota
	created         // of a use: there is none
	published       // to a node, by the controller
	staged
	inUse // published by the node service
)

var stageNames = []string{"absent", "created", "published", "staged", "in use"}

func (s stage) String() string { return stageNames[s] }

// progress is how far something is with the CO. Below done everything is certain; what lies above, up to reach, was begun and failed. The
// CO does again what failed, or undoes it.
type progress struct{ goal, done, reach stage }

// is says whether it is at that stage, as far as the CO knows, and nothing is uncertain.
func (p *progress) is(s stage) bool { return p.done == s && p.reach == s }

// vol is what the CO knows of a volume, which is absent or created. What machines do with it are its uses.
type vol struct {
	client
	progress

	replicas    int
	thin, block bool
	// secret is the passphrase of one that is encrypted, head the beginning of its header; nil is not known yet.
	secret string
	head   []byte
	// sizeBytes is what it was made with, grownBytes what it was last asked to have.
	sizeBytes, grownBytes int64
	// mutable is what it was last asked to be modified to; replicas is the number that it was made with.
	mutable map[string]string

	deleting    bool // DeleteVolume was called: nothing else may follow
	uses        []*attachment
	incarnation int
	model       *model
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
	// usedSince is when a call about its use last ended.
	usedSince time.Time
	waiting
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
	v.secret, v.head = "", nil
	if rng.IntN(4) == 0 {
		v.secret = fmt.Sprintf("secret of %s/%d", v.name, v.incarnation)
	}
	v.drawContent()
	v.share(v.block && v.secret == "" && rng.IntN(3) > 0)
	v.broken, v.hopelessSince, v.excused = false, time.Time{}, false
}

// promised says whether I/O must go on without a long wait and without an error.
func (v *vol) promised() bool { return !v.promisedAt.IsZero() }

// stranded says whether only an operator can help.
func (v *vol) stranded() bool {
	record := v.w.store.peek(v.id())
	return (v.excused || v.tooLate > 0) && record != nil && record.Phase == volume.PhaseReady && len(record.InState(volume.ReplicaInSync)) == 0
}

func (v *vol) parameters() map[string]string {
	encryption := volume.EncryptionNone
	if v.secret != "" {
		encryption = volume.EncryptionLUKS2
	}
	return map[string]string{
		volume.ParamEncryption: string(encryption),
		volume.ParamReplicas:   strconv.Itoa(v.replicas), volume.ParamThin: strconv.FormatBool(v.thin),
		volume.ParamReplicaStallBudget: budgets.ReplicaStall.String(), volume.ParamTargetLossBudget: budgets.TargetLoss.String(),
	}
}

func (v *vol) capability() *csi.VolumeCapability {
	mode := csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER
	if len(v.uses) > 1 {
		mode = csi.VolumeCapability_AccessMode_MULTI_NODE_MULTI_WRITER
	}
	c := &csi.VolumeCapability{AccessMode: &csi.VolumeCapability_AccessMode{Mode: mode}}
	if v.block {
		c.AccessType = &csi.VolumeCapability_Block{Block: &csi.VolumeCapability_BlockVolume{}}
	} else {
		c.AccessType = &csi.VolumeCapability_Mount{Mount: &csi.VolumeCapability_MountVolume{FsType: "ext4"}}
	}
	return c
}

// begin starts a CSI call in a process of the driver, after which nothing is promised of its I/O.
func (v *vol) begin(what string, p *process, f func(ctx context.Context) error, settle func(err error)) {
	v.unpromise()
	v.client.begin(what, p, f, settle)
}

func (v *vol) unpromise() { v.promisedAt = time.Time{} }

// aim sets the goal of the volume and of all its uses.
func (v *vol) aim(goal stage) {
	v.goal = min(goal, created)
	for _, a := range v.uses {
		a.goal = max(goal, created)
	}
}

// advance begins the call that leads towards the volume's own goal, if any.
func (v *vol) advance() {
	switch {
	case v.call != nil:
	case v.deleting, v.done == absent && v.reach == created && v.lacksContent():
		v.descend()
	case v.done < v.goal:
		v.climb()
	case v.reach > v.goal && v.unused() && !v.needed():
		v.descend()
	}
}

// climb begins the call that makes the volume, or repeats it.
func (v *vol) climb() {
	if v.is(absent) {
		v.draw()
	}
	v.reach = created
	what := fmt.Sprintf("create with %d replicas, thin: %t, block: %t, encrypted: %t, nodes: %d, %d MiB", v.replicas, v.thin, v.block, v.secret != "", len(v.uses), v.sizeBytes/mib)
	v.begin(v.made()+what, v.w.controller.process, v.create, func(err error) {
		if err == nil && v.done < created {
			v.wasMade()
			v.done = created
		}
	})
}

// descend begins the call that deletes the volume.
func (v *vol) descend() {
	v.deleting, v.done = true, absent
	v.begin("delete", v.w.controller.process, v.delete, func(err error) {
		v.deleting = err != nil
		if err == nil {
			v.reach = absent
			v.unmade()
		}
	})
}

func (v *vol) controllerExpand(ctx context.Context) error {
	_, err := v.w.controller.ControllerExpandVolume(ctx, &csi.ControllerExpandVolumeRequest{
		VolumeId: v.id(), CapacityRange: &csi.CapacityRange{RequiredBytes: v.grownBytes}, VolumeCapability: v.capability(),
	})
	return err
}

func (v *vol) create(ctx context.Context) error {
	_, err := v.w.controller.CreateVolume(ctx, &csi.CreateVolumeRequest{
		Name: v.name, CapacityRange: &csi.CapacityRange{RequiredBytes: v.sizeBytes, LimitBytes: v.sizeBytes},
		VolumeCapabilities: []*csi.VolumeCapability{v.capability()}, Parameters: v.parameters(), VolumeContentSource: v.contentSource(),
	})
	return err
}

func (v *vol) delete(ctx context.Context) error {
	_, err := v.w.controller.DeleteVolume(ctx, &csi.DeleteVolumeRequest{VolumeId: v.id()})
	return err
}
