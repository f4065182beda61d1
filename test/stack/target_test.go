package stack

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/holdfast-csi/holdfast/spdk"
)

// targets are simulated SPDK nodes without a driver.
func targets(t *testing.T) *Stack {
	t.Helper()
	t.Setenv(socketsVariable, "")
	s, err := newStack(t.Context(), "127.0.0.1", Options{Nodes: 2})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

func (t *Target) answers(ctx context.Context) bool {
	return t.Do(func(node *spdk.Node) error { _, err := node.Version(ctx); return err }) == nil
}

func TestFaultLastsUntilItIsHealed(t *testing.T) {
	s := targets(t)
	n1, ctx := s.Targets[0], t.Context()
	for range 2 { // setting it twice changes nothing
		if err := n1.Set(ctx, Killed, true); err != nil {
			t.Fatal(err)
		}
	}
	if n1.answers(ctx) {
		t.Error("a killed target answers")
	}
	if err := s.Heal(ctx); err != nil {
		t.Fatal(err)
	}
	if !n1.answers(ctx) || s.Crashes() != 0 {
		t.Error("a healed target doesn't answer, or counts as crashed")
	}
}

func TestCrashedTargetIsStartedAgain(t *testing.T) {
	s := targets(t)
	n1 := s.Targets[0]
	n1.control.(*simulated).node.Kill() // not by way of Set: nobody meant it
	for !n1.answers(t.Context()) {
		if err := t.Context().Err(); err != nil {
			t.Fatal(err)
		}
	}
	if n := s.Crashes(); n != 1 {
		t.Errorf("%d crashes are counted", n)
	}
}

// silent answers whenever it is asked.
type silent struct{ calls int }

func (s *silent) Call(context.Context, string, any, any) error { s.calls++; return nil }

func TestCutWireLosesCallsAndAnswers(t *testing.T) {
	next := &silent{}
	w := &wire{next: next, changed: make(chan struct{})}
	if err := w.set(true); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if err := w.Call(ctx, "method", nil, nil); !errors.Is(err, spdk.ErrUnreachable) || next.calls != 0 {
		t.Errorf("on a cut wire: %v, %d calls arrived", err, next.calls)
	}
	if err := w.set(false); err != nil {
		t.Fatal(err)
	}
	if err := w.Call(t.Context(), "method", nil, nil); err != nil || next.calls != 1 {
		t.Errorf("on a whole wire: %v, %d calls arrived", err, next.calls)
	}
}

func TestReplicasThatDifferAreFound(t *testing.T) {
	if testing.Short() {
		t.Skip("it starts a whole driver")
	}
	t.Setenv(socketsVariable, "")
	s, err := StartLocal(t.Context(), Options{Nodes: 2})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	c, err := s.Claim(t.Context(), ClaimSpec{SizeBytes: 8 << 20, Parameters: map[string]string{"replicas": "2"}})
	if err != nil {
		t.Fatal(err)
	}
	v, err := c.Record(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if n, err := s.CompareReplicas(t.Context(), v); err != nil || n != 0 {
		t.Fatalf("fresh replicas: %d bytes differ, %v", n, err)
	}
	r, err := s.openReplica(t.Context(), v, v.Replicas[1])
	if err != nil {
		t.Fatal(err)
	}
	block := make([]byte, 4096)
	block[7], block[99] = 1, 1
	if err := r.Write(t.Context(), 1, block, 4<<20); err != nil {
		t.Fatal(err)
	}
	r.close()
	if n, err := s.CompareReplicas(t.Context(), v); err != nil || n != 2 {
		t.Errorf("%d bytes differ, %v", n, err)
	}
	if err := c.Delete(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := s.Leftovers(t.Context()); err != nil {
		t.Error(err)
	}
}
