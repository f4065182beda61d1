//go:build e2e

package driver

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/holdfast-csi/holdfast/spdk/volume"
	"github.com/holdfast-csi/holdfast/test/stack"
	"github.com/holdfast-csi/holdfast/test/vm"
)

// withKeys are parameters of volumes all of whose connections authenticate.
var withKeys = map[string]string{volume.ParamReplicas: "3", volume.ParamReplicaKey: stack.Key, volume.ParamHostKey: stack.Key}

// keyText begins each key.
const keyText = "DHHC-1:"

// wantNoKeyShown fails the test if the kernel or one of these logs has a key.
func (s *suite) wantNoKeyShown(t *testing.T, logs ...string) {
	t.Helper()
	if shown := s.guest(t, "dmesg | grep "+keyText+" || true"); shown != "" {
		t.Errorf("in the kernel's log: %s", shown)
	}
	for _, log := range logs {
		content, err := os.ReadFile(log)
		must(t, err)
		if bytes.Contains(content, []byte(keyText)) {
			t.Errorf("%s has a key", log)
		}
	}
}

// A kernel that can authenticate uses a volume with keys: where it was published, where an operator moves it, and where it goes when the raid
// host's process is killed, which then starts again (real targets are not killed). With another secret it gets nothing.
func TestKernelProvesItselfWhereverTheVolumeRuns(t *testing.T) {
	logs := t.TempDir()
	v, err := stack.StartVM(t.Context(), stack.Options{Kernel: vm.Authenticating, Logs: logs})
	must(t, err)
	t.Cleanup(v.Close)
	s := &suite{v}
	c := newClaim(t, s, "ext4", withKeys)
	c.publish()
	c.standby()
	sum := s.randomFile(t, c.Pod+"/data")
	c.move()
	if s.Simulated() {
		c.standby()
		written := c.writeFiles(40)
		lost := c.raidHost()
		must(t, lost.Set(t.Context(), stack.Killed, true))
		files := <-written
		must(t, lost.Set(t.Context(), stack.Killed, false))
		c.wantFiles(files)
	}
	s.wantSum(t, c.Pod+"/data", sum)
	if open := s.guest(t, "find /sys/class/nvme/*/ -name 'dhchap*' -perm /077"); open != "" {
		t.Errorf("everybody may read %s", open)
	}
	c.unpublish()

	right, err := s.Machine.ReadFile(t.Context(), stack.SecretFile)
	must(t, err)
	secret := func(content []byte) {
		must(t, s.Machine.WriteFile(t.Context(), stack.SecretFile, content, 0o600))
		s.restartNode(t)
	}
	secret(bytes.Repeat([]byte("another"), 8))
	c.Once = true // a node service that goes on trying gives the targets its keys, as it may
	if err := c.Publish(t.Context()); err == nil || !strings.Contains(err.Error(), "replicaKeys") {
		t.Errorf("with another secret: %v", err)
	}
	secret(right)
	c.Once = false
	c.unpublish()

	c.publish()
	s.wantSum(t, c.Pod+"/data", sum)
	c.unpublish()
	c.delete()
	s.wantNothingLeft(t)
	all, err := filepath.Glob(logs + "/*")
	must(t, err)
	s.wantNoKeyShown(t, all...)
}

// Debian 12's own kernel can't authenticate.
func TestKernelThatCannotAuthenticateIsRefused(t *testing.T) {
	s := run(t)
	c := newClaim(t, s, "ext4", withKeys)
	err := c.Publish(t.Context())
	if status.Code(err) != codes.FailedPrecondition || !strings.Contains(err.Error(), "CONFIG_NVME_HOST_AUTH") {
		t.Errorf("got %v", err)
	}
	c.unpublish()
	c.delete()
	s.wantNothingLeft(t)
	s.wantNoKeyShown(t)
}
