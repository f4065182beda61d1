//go:build e2e

// Package driver runs the whole driver for real; see package stack. With SPDK_RPC_SOCK=a.sock,b.sock,... the targets are real ones.
package driver

import (
	"os"
	"testing"

	"github.com/holdfast-csi/holdfast/spdk"
	"github.com/holdfast-csi/holdfast/test/stack"
)

// suite is everything that runs. All tests share it: each has volumes of its own.
type suite struct{ *stack.VM }

var shared *suite

// TestMain runs the tests where this machine has the targets' address.
func TestMain(m *testing.M) {
	code := stack.Main(m)
	if shared != nil {
		shared.Close()
	}
	os.Exit(code)
}

func run(t *testing.T) *suite {
	t.Helper()
	if shared == nil {
		s, err := stack.StartVM(t.Context(), stack.Options{})
		must(t, err)
		shared = &suite{s}
	}
	return shared
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// guest runs a shell command in the guest, which must succeed.
func (s *suite) guest(t *testing.T, command string) string {
	t.Helper()
	out, err := s.Guest(t.Context(), command)
	must(t, err)
	return out
}

// eachNode visits the targets past the driver.
func (s *suite) eachNode(t *testing.T, visit func(node *spdk.Node) error) {
	t.Helper()
	for _, target := range s.Targets {
		must(t, target.Do(visit))
	}
}

// raidHost returns the node that the volume runs on.
func (c *claim) raidHost() *stack.Target {
	c.t.Helper()
	v, err := c.Record(c.t.Context())
	must(c.t, err)
	if v.Assembly == nil {
		c.t.Fatal("the volume runs nowhere")
	}
	target, err := c.s.Target(v.Assembly.RaidHost)
	must(c.t, err)
	return target
}

// wantNothingLeft fails the test if anything is left on the targets or the guest.
func (s *suite) wantNothingLeft(t *testing.T) {
	t.Helper()
	for _, left := range []error{s.Leftovers(t.Context()), s.LeftInGuest(t.Context())} {
		if left != nil {
			t.Error(left)
		}
	}
}
