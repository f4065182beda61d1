package healing

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/holdfast-csi/holdfast/test/cluster"
)

// everySharedStep goes through a flow of a volume that two machines write to, with each of its steps failing in each mode: calls to SPDK, uses of
// the store, operations of both machines. A crash is one of all services at once.
func everySharedStep(t *testing.T, flow func(p *pair, steps *cluster.Steps, faulty func(func() error) bool)) {
	everySharedStepWith(t, nil, flow)
}

func everySharedStepWith(t *testing.T, parameters map[string]string, flow func(p *pair, steps *cluster.Steps, faulty func(func() error) bool)) {
	longTest(t)
	t.Parallel()
	cluster.EveryInBubbles(t, func(t *testing.T, steps *cluster.Steps) func(*testing.T, func(func() error) bool) {
		b := newBubble(t, 3, cluster.Options{Steps: steps})
		b.parameters = parameters
		var p *pair
		count := 0
		return func(_ *testing.T, faulty func(func() error) bool) {
			if p == nil {
				p = b.pair(steps, "shared")
			} else {
				count++
				p.id = b.create(fmt.Sprintf("shared-%d", count), 3)
				p.begin()
			}
			flow(p, steps, faulty)
			p.end()
			p.releaseBy(p.guest, p.owner)
		}
	})
}

func TestEveryStepOfMovingASharedVolumeMayFail(t *testing.T) {
	everySharedStep(t, func(p *pair, steps *cluster.Steps, faulty func(func() error) bool) {
		p.moveTo(p.id, p.Record(p.id).Standby.RaidHost)
		p.flaky(steps, faulty, func() {}, func() {}, p.owner, p.guest)
	})
}

func TestEveryStepOfLeavingALostRaidHostWithAGuestMayFail(t *testing.T) {
	everySharedStep(t, func(p *pair, steps *cluster.Steps, faulty func(func() error) bool) {
		lost := p.Record(p.id).Assembly.RaidHost
		begin := time.Now()
		p.flaky(steps, faulty, func() { p.kill(lost) }, func() {
			// After a crash nobody may know any more what the raid host acknowledged to the guest; then it is waited for.
			if a := p.Record(p.id).Assembly; a.RaidHost != lost && !a.Held || time.Since(begin) > time.Minute {
				p.restart(lost)
			}
		}, p.owner, p.guest)
	})
}

// The owner lets go of the volume, and the guest takes it over.
func TestEveryStepOfHandingAVolumeOverMayFail(t *testing.T) {
	everySharedStep(t, func(p *pair, steps *cluster.Steps, faulty func(func() error) bool) {
		p.must(errors.Join(p.turns.end(), p.loads[0].End()))
		p.flaky(steps, faulty, func() { _ = p.owner.unstage(p.id) }, func() {
			if p.Record(p.id).Owner == p.owner.name {
				_ = p.owner.unstage(p.id)
			}
		}, p.guest)
	})
}

// A second machine comes while the first uses the volume.
func TestEveryStepOfPublishingToAFurtherNodeMayFail(t *testing.T) {
	everySharedStep(t, furtherNode)
}

func TestEveryStepOfPublishingToAFurtherNodeWithKeysMayFail(t *testing.T) {
	everySharedStepWith(t, withKeys, furtherNode)
}

func furtherNode(p *pair, steps *cluster.Steps, faulty func(func() error) bool) {
	p.must(errors.Join(p.turns.end(), p.loads[1].End()))
	p.guest.unuse(p.id)
	p.awaitShared(p.id, p.owner)
	come := func() {
		if v := p.Record(p.id); v.Publication(p.guest.name) == nil || len(v.Guests()) == 0 || len(p.guest.Attached()) == 0 {
			_ = errors.Join(p.guest.publish(p.id), p.guest.stage(p.id))
		}
	}
	p.flaky(steps, faulty, come, come, p.owner, p.guest)
}
