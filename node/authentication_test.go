package node_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/holdfast-csi/holdfast/node/nvmeof"
	"github.com/holdfast-csi/holdfast/node/userspace"
	"github.com/holdfast-csi/holdfast/spdk/volume"
	"github.com/holdfast-csi/holdfast/test/cluster"
)

// withKeys makes a volume whose target and hosts authenticate to each other.
func (b *bench) withKeys(name string) string {
	b.t.Helper()
	return b.publishedWith(name, map[string]string{volume.ParamHostKey: cluster.Key})
}

// secretOf replaces what this node's configuration has as the secret.
func (b *bench) secretOf(content string) {
	b.t.Helper()
	s, err := volume.NewSecret([]byte(content))
	b.must(err)
	b.Secrets[cluster.Key] = s
}

func TestVolumeWithKeysIsUsedFromStageToUnstage(t *testing.T) {
	b := newBench(t, 2, cluster.Options{})
	id := b.withKeys("keys")
	b.must(b.stage(id))
	b.restart()
	b.must(b.stage(id))
	b.must(b.publish(id))
	b.wantUsable(b.target())
	b.must(b.unpublish(id))
	b.must(b.unstage(id))
	b.wantDetached(id)
	b.dispose(id)
	b.WantEmpty()
}

func TestWrongKeyStagesNothing(t *testing.T) {
	b := newBench(t, 2, cluster.Options{})
	id := b.withKeys("wrong")
	b.secretOf(strings.Repeat("another", 8))
	wantError(t, b.stage(id), nvmeof.ErrRejected)
	if attached := b.machine.Attached(); len(attached) > 0 {
		t.Errorf("attached: %v", attached)
	}
	b.must(b.unstage(id))
	b.wantDetached(id)
}

func TestVolumeWhoseKeyTheConfigurationLacksIsNotTouched(t *testing.T) {
	b := newBench(t, 2, cluster.Options{})
	id := b.withKeys("none")
	delete(b.Secrets, cluster.Key)
	if err := b.stage(id); !errors.Is(err, volume.ErrNoKey) || !strings.Contains(err.Error(), "hostKey=main") {
		t.Errorf("got %v", err)
	}
	b.wantDetached(id)
}

// The kernel can't authenticate: what it has answered is what the CO is told, and nothing is left.
func TestMachineThatCannotAuthenticateLeavesNothing(t *testing.T) {
	b := newBench(t, 2, cluster.Options{})
	id := b.withKeys("unable")
	b.failing(userspace.OpConnect, userspace.Before, nvmeof.ErrUnsupported)
	wantError(t, b.stage(id), nvmeof.ErrUnsupported)
	b.fault = nil
	b.must(b.unstage(id))
	b.wantDetached(id)
}
