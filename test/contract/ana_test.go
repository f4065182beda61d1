package contract

import (
	"errors"
	"strconv"
	"testing"

	"github.com/holdfast-csi/holdfast/spdk"
	"github.com/holdfast-csi/holdfast/spdk/sim/nvmetcp"
)

func port(a spdk.Address) string { return strconv.Itoa(int(a.Port)) }

// A listener that was asked to be inaccessible is so from the first connection on.
func TestListenerIsNeverOptimizedWhenInaccessibleWasAsked(t *testing.T) {
	tg := targets(t, 1)[0]
	e := exportLvol(t, newLvol(t, tg, volumeSize), userNQN)
	e.ANAReporting, e.ANAState = true, spdk.ANAInaccessible
	export(t, tg, e)
	h := mustConnect(t, e, userNQN)
	if err := h.tryWrite(t.Context(), 1); !isPathError(err) {
		t.Errorf("a write ended with %v, want a path error", err)
	}
}

// Fact 25: inaccessible holds a host's I/O off, with an error that says so, and optimized
// lets it on, on the same connection.
func TestANAPauseHoldsWritesAndReadsUntilItIsOver(t *testing.T) {
	tg := targets(t, 1)[0]
	e := exportLvol(t, newLvol(t, tg, volumeSize), userNQN)
	e.ANAReporting, e.ANAState = true, spdk.ANAOptimized
	export(t, tg, e)
	h := mustConnect(t, e, userNQN)
	h.write(1)
	ok(t, tg.SetANAState(t.Context(), e.NQN, e.Listen, spdk.ANAInaccessible))
	ok(t, tg.SetANAState(t.Context(), e.NQN, e.Listen, spdk.ANAInaccessible))
	if err := h.tryWrite(t.Context(), 2); !isPathError(err) {
		t.Errorf("a write in the pause ended with %v, want a path error", err)
	}
	if err := h.Read(t.Context(), 1, make([]byte, ioSize), place(1)); !isPathError(err) {
		t.Errorf("a read in the pause ended with %v, want a path error", err)
	}
	ok(t, tg.SetANAState(t.Context(), e.NQN, e.Listen, spdk.ANAOptimized))
	h.check(1)
	h.write(2)
	h.check(2)
}

func TestHostIsToldOfANAChanges(t *testing.T) {
	tg := targets(t, 1)[0]
	e := exportLvol(t, newLvol(t, tg, volumeSize), userNQN)
	e.ANAReporting, e.ANAState = true, spdk.ANAOptimized
	export(t, tg, e)
	h := mustConnect(t, e, userNQN)
	ok(t, tg.SetANAState(t.Context(), e.NQN, e.Listen, spdk.ANANonOptimized))
	for event := range h.Events() {
		if event.Type == nvmetcp.EventANAChanged {
			break
		}
	}
	states, err := h.ANAStates(t.Context())
	if err != nil || len(states) != 1 || states[1] != nvmetcp.ANANonOptimized {
		t.Errorf("%v, %v", states, err)
	}
}

func TestANAStateOfWhatIsNotThereIsNotFound(t *testing.T) {
	tg := targets(t, 1)[0]
	plain := exportLvol(t, newLvol(t, tg, volumeSize), userNQN)
	export(t, tg, plain)
	if err := tg.SetANAState(t.Context(), uniqueNQN(), plain.Listen, spdk.ANAOptimized); !errors.Is(err, spdk.ErrNotFound) {
		t.Errorf("no subsystem: %v", err)
	}
	if err := tg.SetANAState(t.Context(), plain.NQN, freeAddress(t), spdk.ANAOptimized); !errors.Is(err, spdk.ErrNotFound) {
		t.Errorf("no listener: %v", err)
	}
	if err := tg.SetANAState(t.Context(), plain.NQN, plain.Listen, spdk.ANAOptimized); !errors.Is(err, spdk.ErrConflict) {
		t.Errorf("no ANA reporting: %v", err)
	}
}
