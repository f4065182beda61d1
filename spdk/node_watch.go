package spdk

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"sync"
)

// Health is what a watcher needs to know of a node's raids, read in two calls however many there are.
type Health struct {
	// Raids are the online raids' members by raid name, without those that are Unfinished. RaidState's sizes and InUse are not read.
	Raids map[string]RaidState
	// Controllers are the NVMe/TCP controllers by name. LegState's bdev and sizes are not read.
	Controllers map[string]LegState
}

// Watch reads a node's Health again and again. An answer that is the same as the last costs no decoding: SPDK lists everything each
// time, and nearly always nothing has changed. Its methods may be called by many goroutines.
type Watch struct {
	node        *Node
	controllers unchanged[[]NVMeControllerInfo, map[string]LegState]
	raids       unchanged[[]RaidInfo, map[string]RaidState]
}

// NewWatch returns a Watch of a node.
func NewWatch(n *Node) *Watch { return &Watch{node: n} }

// Health is as Node.Health. What it returns is shared and must not be changed.
func (w *Watch) Health(ctx context.Context) (Health, error) {
	var answer json.RawMessage
	if err := w.node.rpc.Call(ctx, bdevNVMeGetControllers.name, BdevNVMeGetControllersParams{}, &answer); err != nil {
		return Health{}, w.node.wrap(err, "list NVMe controllers")
	}
	controllers, err := w.controllers.read(answer, legStates)
	if err != nil {
		return Health{}, w.node.wrap(err, "list NVMe controllers")
	}
	answer = nil
	if err := w.node.rpc.Call(ctx, bdevRaidGetBdevs.name, BdevRaidGetBdevsParams{Category: RaidOnline}, &answer); err != nil {
		return Health{}, w.node.wrap(err, "list raids")
	}
	raids, err := w.raids.read(answer, raidStates)
	if err != nil {
		return Health{}, w.node.wrap(err, "list raids")
	}
	return Health{Raids: raids, Controllers: controllers}, nil
}

// unchanged keeps an answer and what it says.
type unchanged[A, S any] struct {
	mu     sync.Mutex
	answer []byte
	says   S
}

// read returns what an answer says.
func (u *unchanged[A, S]) read(answer []byte, state func(A) S) (S, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.answer != nil && bytes.Equal(u.answer, answer) {
		return u.says, nil
	}
	var decoded A
	if err := json.Unmarshal(answer, &decoded); err != nil {
		return u.says, fmt.Errorf("%w: the result is not what the method promises: %w", ErrUnknownOutcome, err)
	}
	u.answer, u.says = answer, state(decoded)
	return u.says, nil
}

// Health reads who is a member of which raid, and how the controllers of legs are. The two reads are not one moment: membership is
// read last, so that a leg that was ejected in between is seen as ejected.
func (n *Node) Health(ctx context.Context) (Health, error) {
	controllers, err := BdevNVMeGetControllers(ctx, n.rpc, BdevNVMeGetControllersParams{})
	if err != nil {
		return Health{}, n.wrap(err, "list NVMe controllers")
	}
	raids, err := BdevRaidGetBdevs(ctx, n.rpc, BdevRaidGetBdevsParams{Category: RaidOnline})
	if err != nil {
		return Health{}, n.wrap(err, "list raids")
	}
	return Health{Raids: raidStates(raids), Controllers: legStates(controllers)}, nil
}

func legStates(controllers []NVMeControllerInfo) map[string]LegState {
	found := make(map[string]LegState, len(controllers))
	for _, c := range controllers {
		if len(c.Ctrlrs) > 0 {
			found[c.Name] = legState(c.Name, c.Ctrlrs[0], nil)
		}
	}
	return found
}

func raidStates(raids []RaidInfo) map[string]RaidState {
	found := make(map[string]RaidState, len(raids))
	for _, r := range raids {
		if s := raidState(r, nil); !s.Unfinished() {
			found[r.Name] = s
		}
	}
	return found
}
