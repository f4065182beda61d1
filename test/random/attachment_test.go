package random_test

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
)

// attachment is the use of a volume by one machine, as the CO knows it. A volume for one node has one, by a machine that is drawn whenever it
// is published; a volume for several has one by each.
type attachment struct {
	client
	progress
	v    *vol
	host *host
	io   []*transfer
	// doubtful are the extents of writes that the machine had under way when it lost power: they may land until it is detached or attached again.
	doubtful []int
}

// share makes the uses of a volume for one node, or of one for all.
func (v *vol) share(all bool) {
	v.uses = []*attachment{v.newUse()}
	if !all {
		return
	}
	v.uses = nil
	for _, h := range v.w.hosts {
		a := v.newUse()
		a.at(h)
		v.uses = append(v.uses, a)
	}
}

func (v *vol) newUse() *attachment {
	return &attachment{client: client{w: v.w, name: v.name}, progress: progress{created, created, created}, v: v}
}

func (a *attachment) at(h *host) { a.host, a.name = h, a.v.name+" on "+h.name }

// users are the uses through which I/O may begin.
func (v *vol) users() []*attachment {
	known := v.secret == "" || v.head != nil
	return slices.DeleteFunc(slices.Clone(v.uses), func(a *attachment) bool { return !known || !a.is(inUse) || a.call != nil || v.call != nil })
}

// unused says whether no machine has anything of the volume, as far as the CO knows, and nothing is uncertain.
func (v *vol) unused() bool {
	return !slices.ContainsFunc(v.uses, func(a *attachment) bool { return a.call != nil || !a.is(created) })
}

// highest is how far the use of the volume has come or may have come.
func (v *vol) highest() stage {
	return slices.MaxFunc(v.uses, func(a, b *attachment) int { return int(a.reach - b.reach) }).reach
}

// on is the use of the volume by a machine; nil if there is none.
func (v *vol) on(host string) *attachment {
	for _, a := range v.uses {
		if a.host != nil && a.host.name == host {
			return a
		}
	}
	return nil
}

// io are the transfers under way.
func (v *vol) io() (all []*transfer) {
	for _, a := range v.uses {
		all = append(all, a.io...)
	}
	return all
}

// aim sets the goal of the use; absent is that of the volume with all its uses.
func (a *attachment) aim(goal stage) {
	if goal == absent {
		a.v.aim(absent)
		return
	}
	a.v.goal, a.goal = created, goal
}

// advance begins the call that leads towards the goal of the use, or that of the volume, if any.
func (a *attachment) advance() {
	v := a.v
	switch {
	case v.call != nil || a.call != nil:
	case v.deleting || !v.is(created) || v.goal == absent && v.unused():
		v.advance()
	case a.done < a.goal && (a.reach == a.done || v.w.rng.IntN(4) > 0):
		a.climb(a.done + 1)
	case a.reach > a.goal || a.done < a.reach:
		if a.reach < inUse || len(a.io) == 0 || v.stranded() || v.stuck() { // else somebody has it open
			a.descend()
		}
	}
}

// again repeats the last call that succeeded.
func (a *attachment) again() {
	if a.done == created {
		a.v.climb()
		return
	}
	a.climb(a.done)
}

// begin starts a CSI call in a process of the driver, after which nothing is promised of the volume's I/O.
func (a *attachment) begin(what string, p *process, f func(ctx context.Context) error, settle func(err error)) {
	a.v.unpromise()
	a.client.begin(what, p, f, func(err error) {
		a.v.usedSince = time.Now()
		settle(err)
	})
}

// climb begins the call that leads to a stage, or repeats it.
func (a *attachment) climb(to stage) {
	w := a.v.w
	if to == published && a.reach < published && len(a.v.uses) == 1 {
		a.at(w.hosts[w.rng.IntN(len(w.hosts))])
	}
	if to == staged && a.is(published) && a.v.hasHeader() && w.rng.IntN(6) == 0 {
		a.stageWrongly()
		return
	}
	a.reach = max(a.reach, to)
	settle := func(err error) {
		if err != nil {
			return
		}
		a.done = max(a.done, to)
		if to == staged {
			a.settleDoubts()
		}
	}
	switch to {
	case published:
		a.begin("publish", w.controller.process, a.publish, settle)
	case staged:
		a.begin("stage", a.host.process, a.stageWith(a.v.secret), settle)
	case inUse:
		a.begin("node-publish", a.host.process, a.nodePublish, settle)
	}
}

// descend begins the call that undoes the stage that was reached. I/O that waits for what may never come ends with its machine's connection.
func (a *attachment) descend() {
	from := a.reach
	a.done = min(a.done, from-1)
	for _, x := range a.io {
		x.lost = true
	}
	settle := func(err error) {
		if err != nil {
			return
		}
		a.reach = from - 1
		if from == published {
			a.settleDoubts()
		}
		if a.v.highest() == created {
			a.v.broken, a.v.hopelessSince = false, time.Time{}
		}
	}
	switch from {
	case published:
		a.begin("unpublish", a.v.w.controller.process, a.unpublish, settle)
	case staged:
		a.begin("unstage", a.host.process, a.unstage, settle)
	case inUse:
		a.begin("node-unpublish", a.host.process, a.nodeUnpublish, settle)
	}
}

// losePower notes that the machine has nothing of the volume any more, and what was under way is in doubt.
func (a *attachment) losePower() {
	if a.reach <= published {
		return
	}
	for _, x := range a.io {
		x.lost = true
	}
	a.done = min(a.done, published)
	if a.v.w.rng.IntN(2) == 0 { // the CO knows that nothing of the volume is left there
		a.reach = published
	}
	if record := a.v.w.store.peek(a.v.id()); len(a.v.users()) == 0 || record.Assembly == nil || !a.v.runs(record) {
		a.v.unpromise() // else the I/O of other machines goes on
	}
}

func (a *attachment) settleDoubts() {
	for _, extent := range a.doubtful {
		a.v.model.busy[extent] = false
	}
	a.doubtful = nil
}

// expand begins a call that makes the volume larger, or repeats one.
func (a *attachment) expand() {
	v, rng := a.v, a.v.w.rng
	if v.grownBytes < 4*v.sizeBytes && rng.IntN(2) == 0 {
		v.grownBytes += 4 * mib
	}
	what := fmt.Sprintf("expand to %d MiB", v.grownBytes/mib)
	settle := func(error) {}
	if a.done >= staged && rng.IntN(2) == 0 {
		a.begin("node-"+what, a.host.process, a.nodeExpand, settle)
		return
	}
	v.begin(what, v.w.controller.process, v.controllerExpand, settle)
}

func (a *attachment) staging() string {
	return filepath.Join(a.v.w.dir, a.host.name, "staging", a.v.name)
}
func (a *attachment) target() string { return filepath.Join(a.v.w.dir, a.host.name, "pods", a.v.name) }

func (a *attachment) publish(ctx context.Context) error {
	_, err := a.v.w.controller.ControllerPublishVolume(ctx, &csi.ControllerPublishVolumeRequest{
		VolumeId: a.v.id(), NodeId: a.host.name, VolumeCapability: a.v.capability(),
	})
	return err
}

func (a *attachment) stageWith(secret string) func(ctx context.Context) error {
	return func(ctx context.Context) error {
		_, err := a.host.NodeStageVolume(ctx, &csi.NodeStageVolumeRequest{
			VolumeId: a.v.id(), StagingTargetPath: a.staging(), VolumeCapability: a.v.capability(), Secrets: secrets(secret),
		})
		return err
	}
}

// stageWrongly tries to stage an encrypted volume with a wrong passphrase, which must fail and do no harm.
func (a *attachment) stageWrongly() {
	a.reach = staged
	a.begin("stage with a wrong passphrase", a.host.process, a.stageWith("wrong"), func(err error) {
		if err == nil {
			a.v.w.fail("%s: it was staged with a wrong passphrase", a)
		}
	})
}

func (a *attachment) nodePublish(ctx context.Context) error {
	_, err := a.host.NodePublishVolume(ctx, &csi.NodePublishVolumeRequest{
		VolumeId: a.v.id(), StagingTargetPath: a.staging(), TargetPath: a.target(), VolumeCapability: a.v.capability(),
	})
	return err
}

func (a *attachment) nodeExpand(ctx context.Context) error {
	_, err := a.host.NodeExpandVolume(ctx, &csi.NodeExpandVolumeRequest{VolumeId: a.v.id(), VolumePath: a.staging(), VolumeCapability: a.v.capability(), Secrets: secrets(a.v.secret)})
	return err
}

func (a *attachment) nodeUnpublish(ctx context.Context) error {
	_, err := a.host.NodeUnpublishVolume(ctx, &csi.NodeUnpublishVolumeRequest{VolumeId: a.v.id(), TargetPath: a.target()})
	return err
}

func (a *attachment) unstage(ctx context.Context) error {
	_, err := a.host.NodeUnstageVolume(ctx, &csi.NodeUnstageVolumeRequest{VolumeId: a.v.id(), StagingTargetPath: a.staging()})
	return err
}

func (a *attachment) unpublish(ctx context.Context) error {
	_, err := a.v.w.controller.ControllerUnpublishVolume(ctx, &csi.ControllerUnpublishVolumeRequest{VolumeId: a.v.id(), NodeId: a.host.name})
	return err
}
