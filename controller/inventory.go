package controller

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"k8s.io/utils/clock"

	"github.com/holdfast-csi/holdfast/spdk"
	"github.com/holdfast-csi/holdfast/spdk/converge"
	"github.com/holdfast-csi/holdfast/spdk/timeouts"
	"github.com/holdfast-csi/holdfast/spdk/volume"
)

// inventoryAge is how long what a node answered counts.
const inventoryAge = 10 * time.Second

// failurePause is for how many times as long as it took to fail a node is left alone, inventoryAge at most: one that hangs costs one
// time-out an interval, however many volumes are being made, and one that refused is asked again at once, for it may be back.
const failurePause = 10

// inventoryTimeout bounds one look at a node.
const inventoryTimeout = 3 * time.Second

// inventory knows the lvstores of all SPDK nodes, and with what timeouts they run, from a while ago at the most.
type inventory struct {
	clock   clock.PassiveClock
	nodes   []*stock
	inForce *converge.InForce
}

// stock is what one node has.
type stock struct {
	node *converge.Node
	// asking has room for the one that asks the node: whoever comes meanwhile waits for the same answer.
	asking chan struct{}

	mu   sync.Mutex
	last answer
}

// answer is what a node said of its lvstores, and until when that counts; the zero time is never.
type answer struct {
	until    time.Time
	lvstores []spdk.LvStore
	err      error
}

func newInventory(cluster *converge.Cluster, c clock.PassiveClock) *inventory {
	inv := &inventory{clock: c, inForce: converge.NewInForce(cluster, c)}
	for _, n := range cluster.Nodes() {
		inv.nodes = append(inv.nodes, &stock{node: n, asking: make(chan struct{}, 1)})
	}
	return inv
}

// pool is one lvstore where replicas can be placed.
type pool struct {
	node *converge.Node
	spdk.LvStore
	// inForce is what its node runs with.
	inForce timeouts.InForce
}

// pools returns the lvstores that the parameters allow, and an error for the nodes among them that don't answer.
func (inv *inventory) pools(ctx context.Context, p volume.Parameters) ([]pool, error) {
	var mu sync.Mutex
	var wg sync.WaitGroup
	var found []pool
	var errs []error
	for _, st := range inv.nodes {
		if !matches(st.node.Labels, p.NodeSelector) {
			continue
		}
		wg.Go(func() {
			lvstores, err := st.look(ctx, inv.clock)
			var inForce timeouts.InForce
			if err == nil {
				inForce, err = inv.inForce.Of(ctx, st.node.Name, p.Budgets)
			}
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				errs = append(errs, fmt.Errorf("%w: %s: %w", volume.ErrNodeDown, st.node.Name, err))
				return
			}
			for _, lvs := range lvstores {
				if allowed(st.node, lvs.Name, p) {
					found = append(found, pool{node: st.node, LvStore: lvs, inForce: inForce})
				}
			}
		})
	}
	wg.Wait()
	return found, errors.Join(errs...)
}

// forget makes the next look at a node a fresh one: what was known of its free space has proved wrong.
func (inv *inventory) forget(node string) {
	for _, st := range inv.nodes {
		if st.node.Name == node {
			st.mu.Lock()
			st.last = answer{}
			st.mu.Unlock()
		}
	}
}

func (st *stock) look(ctx context.Context, c clock.PassiveClock) ([]spdk.LvStore, error) {
	select {
	case st.asking <- struct{}{}:
		defer func() { <-st.asking }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	began := c.Now()
	if last := st.known(); began.Before(last.until) {
		return last.lvstores, last.err
	}
	// The answer serves other callers too, so that it doesn't end with this one.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), inventoryTimeout)
	defer cancel()
	lvstores, err := st.node.LvStores(ctx)
	age := inventoryAge
	if err != nil {
		age = min(age, failurePause*c.Since(began))
	}
	st.mu.Lock()
	defer st.mu.Unlock()
	st.last = answer{c.Now().Add(age), lvstores, err}
	return lvstores, err
}

func (st *stock) known() answer {
	st.mu.Lock()
	defer st.mu.Unlock()
	return st.last
}

// runs says whether the budgets of a volume hold with a node, as it is now, as raid host of the given legs.
func (inv *inventory) runs(ctx context.Context, v *volume.Volume, raidHost string, legs []string) error {
	host, err := inv.inForce.Now(ctx, raidHost, v.Parameters.Budgets)
	if err != nil {
		return err
	}
	var replicas []timeouts.InForce
	for _, id := range legs {
		r, err := inv.inForce.Of(ctx, v.Replica(id).Node, v.Parameters.Budgets)
		if err != nil {
			return err
		}
		replicas = append(replicas, r)
	}
	return host.Runs(v.Parameters.Budgets, replicas...)
}

// raidHost is a node that could run a volume's raid.
type raidHost struct {
	node string
	// local: it is on the machine of the host.
	local bool
	// cordoned: it is taken only if there is no other.
	cordoned bool
	raids    int
	// broken says why the volume's budgets don't hold with it; nil if they do.
	broken error
}

// before says whether h goes before o: one that isn't cordoned, then one with which the budgets hold, then one on the host's own machine, then fewer raids.
func (h raidHost) before(o raidHost) bool {
	switch {
	case h.cordoned != o.cordoned:
		return o.cordoned
	case (h.broken == nil) != (o.broken == nil):
		return h.broken == nil
	case h.local != o.local:
		return h.local
	}
	return h.raids < o.raids
}

func matches(labels, selector map[string]string) bool {
	for key, value := range selector {
		if labels[key] != value {
			return false
		}
	}
	return true
}

func allowed(node *converge.Node, lvstore string, p volume.Parameters) bool {
	return (p.LvStore == "" || p.LvStore == lvstore) && node.MayUse(lvstore)
}
