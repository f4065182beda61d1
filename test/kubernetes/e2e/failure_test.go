//go:build e2e

package e2e

import (
	"context"
	"testing"
	"time"

	"github.com/holdfast-csi/holdfast/test/kubernetes/cluster"
	"github.com/holdfast-csi/holdfast/test/stack"
)

// writing makes a volume and a pod that writes to it, and returns the volume's ID.
func (s *scene) writing() string {
	s.t.Helper()
	s.claim("data", "Filesystem", "")
	s.writerPod("writer", "data", "Filesystem")
	s.progress("writer", 20)
	volume := s.volume("data")
	s.awaitHealthy(volume, true)
	return volume
}

// raidHost returns the SPDK node that the volume runs on, and one that has another replica of it.
func (s *scene) raidHost(volume string) (host, other *stack.Target) {
	s.t.Helper()
	name := s.kubectl("get", "volumes.csi.holdfast.dev", volume, "-o", "jsonpath={.status.raidHost}")
	for _, target := range s.c.SPDK.Targets {
		if target.Name == name {
			host = target
		} else {
			other = target
		}
	}
	if host == nil {
		s.t.Fatalf("the volume runs on %q, which is no SPDK node", name)
	}
	return host, other
}

// set begins or ends a fault.
func (s *scene) set(target *stack.Target, fault stack.Fault, on bool) {
	s.t.Helper()
	must(s.t, target.Set(s.t.Context(), fault, on))
}

func TestReplicasNodeIsKilledWhileAPodWrites(t *testing.T) {
	s := newScene(t, "replica-lost")
	volume := s.writing()
	_, other := s.raidHost(volume)
	s.set(other, stack.Killed, true)
	t.Cleanup(func() { must(t, other.Heal(context.WithoutCancel(t.Context()))) })
	s.awaitHealthy(volume, false)
	s.goesOn("writer")
	s.set(other, stack.Killed, false)
	s.awaitHealthy(volume, true)
	t.Logf("longest write: %s", s.goesOn("writer").longest)
}

func TestRaidHostIsKilledWhileAPodWrites(t *testing.T) {
	s := newScene(t, "raid-host-lost")
	volume := s.writing()
	host, _ := s.raidHost(volume)
	s.set(host, stack.Killed, true)
	t.Cleanup(func() { must(t, host.Heal(context.WithoutCancel(t.Context()))) })
	s.await(func(out string) bool { return out != "" && out != host.Name }, "get", "volumes.csi.holdfast.dev", volume, "-o", "jsonpath={.status.raidHost}")
	s.goesOn("writer")
	s.set(host, stack.Killed, false)
	s.awaitHealthy(volume, true)
	t.Logf("longest write: %s", s.goesOn("writer").longest)
}

func TestDriverIsKilledAndUpgradedWhileAPodWrites(t *testing.T) {
	s := newScene(t, "upgrade")
	volume := s.writing()
	_, err := s.c.Kubectl(t.Context(), "", "-n", cluster.Namespace, "delete", "pods", "--all", "--grace-period=0", "--force")
	must(t, err)
	s.goesOn("writer")
	must(t, s.c.Install(t.Context(), cluster.Release{Tag: "after", Parameters: parameters}))
	s.goesOn("writer")
	s.awaitHealthy(volume, true)
	// What is new takes care of what was there.
	s.kubectl("delete", "pod", "writer")
	s.writerPod("again", "data", "Filesystem")
	if p := s.goesOn("again"); p.found < 20 {
		t.Errorf("the pod has found %d records of 20 and more", p.found)
	}
}

func TestKubeletIsRestartedWhileAPodWrites(t *testing.T) {
	s := newScene(t, "kubelet")
	s.writing()
	worker := s.c.Workers[0]
	must(t, worker.KillKubelet(t.Context()))
	must(t, worker.StartKubelet(t.Context()))
	s.goesOn("writer")
	s.kubectl("delete", "pod", "writer")
	s.writerPod("again", "data", "Filesystem")
	if p := s.goesOn("again"); p.found < 20 {
		t.Errorf("the pod has found %d records of 20 and more", p.found)
	}
}

func TestServerIsAwayWhileAPodWrites(t *testing.T) {
	s := newScene(t, "server-away")
	volume := s.writing()
	before := s.progress("writer", 0)
	s.c.StopServer()
	time.Sleep(2 * time.Minute) // it is what is tested
	must(t, s.c.StartServer(t.Context()))
	after := s.goesOn("writer")
	if after.written-before.written < 60 {
		t.Errorf("in two minutes without an API server %d records were written", after.written-before.written)
	}
	s.awaitHealthy(volume, true)
	s.claim("another", "Filesystem", "")
	s.writerPod("new", "another", "Filesystem")
	s.progress("new", 20)
	t.Logf("longest write: %s", after.longest)
}
