package contract

import (
	"context"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/holdfast-csi/holdfast/spdk"
)

// socketsVariable names the sockets of real targets.
const socketsVariable = "SPDK_RPC_SOCK"

// patience bounds what a test waits for; a real target on a busy machine needs most of it.
const patience = time.Minute

// target is one SPDK process.
type target struct {
	*spdk.Node
	rpc *spdk.Client
	lvs spdk.LvStore
	// hostNQN is how the target names itself to others.
	hostNQN string
}

// sockets returns the addresses of n targets: real ones, or simulated ones made for t.
func sockets(t *testing.T, n int) []string {
	t.Helper()
	named := os.Getenv(socketsVariable)
	if named == "" {
		return simulated(t, n)
	}
	all := strings.Split(named, ",")
	if len(all) < n {
		t.Skipf("needs %d targets, %s names %d", n, socketsVariable, len(all))
	}
	return all[:n]
}

// targets returns n targets and checks, when the test is over, that it has left nothing.
func targets(t *testing.T, n int) []*target {
	t.Helper()
	var all []*target
	for i, socket := range sockets(t, n) {
		rpc, err := spdk.Dial("unix://"+socket, spdk.Options{CallTimeout: patience})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { rpc.Close() })
		tg := &target{
			Node:    spdk.NewNode(fmt.Sprintf("n%d", i+1), rpc),
			rpc:     rpc,
			hostNQN: "nqn.2026-11.dev.holdfast.contract:spdk:" + uuid.NewString(),
		}
		stores, err := tg.LvStores(t.Context())
		if err != nil || len(stores) == 0 {
			t.Fatalf("target %s needs an lvstore: %v", socket, err)
		}
		tg.lvs = stores[0]
		before := tg.inventory(t)
		t.Cleanup(func() {
			if after := tg.inventory(t); !slices.Equal(before, after) {
				t.Errorf("%s was left otherwise than it was found:\nbefore %q\nafter  %q", tg.Name(), before, after)
			}
		})
		all = append(all, tg)
	}
	return all
}

// inventory lists the objects on a target.
func (tg *target) inventory(t *testing.T) []string {
	t.Helper()
	ctx := clean(t)
	var all []string
	bdevs, err := spdk.BdevGetBdevs(ctx, tg.rpc, spdk.BdevGetBdevsParams{})
	for _, b := range bdevs {
		all = append(all, "bdev "+b.Name)
	}
	controllers, err2 := spdk.BdevNVMeGetControllers(ctx, tg.rpc, spdk.BdevNVMeGetControllersParams{})
	for _, c := range controllers {
		all = append(all, "controller "+c.Name)
	}
	subsystems, err3 := spdk.NVMfGetSubsystems(ctx, tg.rpc, spdk.NVMfGetSubsystemsParams{})
	for _, s := range subsystems {
		all = append(all, "subsystem "+s.NQN)
	}
	raids, err4 := tg.Raids(ctx)
	for _, r := range raids {
		all = append(all, "raid "+r.Name+" "+r.State)
	}
	for _, err := range []error{err, err2, err3, err4} {
		if err != nil {
			t.Errorf("list what is on %s: %v", tg.Name(), err)
		}
	}
	slices.Sort(all)
	return all
}

// clean returns a context for cleaning up, when that of the test has ended.
func clean(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

// atEnd registers a step of cleaning up.
func atEnd(t *testing.T, what string, step func(ctx context.Context) error) {
	t.Helper()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := step(ctx); err != nil {
			t.Errorf("clean up: %s: %v", what, err)
		}
	})
}

// ok ends the test on an error.
func ok(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// eventually waits until what is true.
func eventually(t *testing.T, what string, is func(ctx context.Context) bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for !is(ctx) {
		select {
		case <-ctx.Done():
			t.Fatalf("waited %v in vain: %s", patience, what)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

var serial atomic.Int64

// unique returns a name that no other test has: "hf-ct-" and 12 characters.
func unique() string {
	return fmt.Sprintf("hf-ct-%s-%d", uuid.NewString()[:8], serial.Add(1))
}

func uniqueNQN() string { return "nqn.2026-11.dev.holdfast.contract:" + uuid.NewString() }

// freeAddress returns an address on which nothing listens.
func freeAddress(t *testing.T) spdk.Address {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	ok(t, err)
	defer l.Close()
	return spdk.Address{Host: "127.0.0.1", Port: uint16(l.Addr().(*net.TCPAddr).Port)}
}
