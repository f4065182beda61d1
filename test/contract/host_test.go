package contract

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"testing"

	"github.com/go-logr/logr"
	"github.com/google/uuid"

	"github.com/holdfast-csi/holdfast/spdk"
	"github.com/holdfast-csi/holdfast/spdk/sim/nvmetcp"
)

// host is a Linux-like host with one path to a volume.
type host struct {
	*nvmetcp.Controller
	t *testing.T
}

// connect connects a host of that NQN to an export.
func connect(t *testing.T, e spdk.Export, hostNQN string) (*host, error) {
	t.Helper()
	id := uuid.NewSHA1(uuid.NameSpaceURL, []byte(hostNQN))
	c, err := nvmetcp.Connect(t.Context(), nvmetcp.HostConfig{
		Addr: e.Listen.String(), SubNQN: e.NQN, HostNQN: hostNQN, HostID: id,
		KeepAlive: nvmetcp.KeepAliveAuto, KATO: patience, ConnectTimeout: patience, Logger: logr.Discard(),
	})
	if err != nil {
		return nil, err
	}
	h := &host{Controller: c, t: t}
	t.Cleanup(func() { h.Close() })
	return h, nil
}

func mustConnect(t *testing.T, e spdk.Export, hostNQN string) *host {
	t.Helper()
	h, err := connect(t, e, hostNQN)
	ok(t, err)
	return h
}

// pattern returns bytes that differ from seed to seed.
func pattern(seed uint64, n int) []byte {
	p := make([]byte, n)
	src := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)})
	src.Read(p)
	return p
}

// write writes a pattern at a place that its seed chooses, and ends the test on an error.
func (h *host) write(seed uint64) {
	h.t.Helper()
	ok(h.t, h.tryWrite(h.t.Context(), seed))
}

func (h *host) tryWrite(ctx context.Context, seed uint64) error {
	return h.Write(ctx, 1, pattern(seed, ioSize), place(seed))
}

const ioSize = 16 << 10

func place(seed uint64) int64 { return int64(seed%16) * mib }

// check reads what write wrote with the same seed.
func (h *host) check(seed uint64) {
	h.t.Helper()
	p := make([]byte, ioSize)
	ok(h.t, h.Read(h.t.Context(), 1, p, place(seed)))
	if !bytes.Equal(p, pattern(seed, ioSize)) {
		h.t.Errorf("%s: what was written with seed %d is not what is read", h.t.Name(), seed)
	}
}

// isPathError reports whether err says that the path, not the namespace, is at fault.
func isPathError(err error) bool {
	var status *nvmetcp.StatusError
	return errors.As(err, &status) && status.PathError()
}

// checkReplica reads what write wrote, through the replica's own export, as a host that is
// let in for the purpose.
func checkReplica(t *testing.T, r *replica, seeds ...uint64) {
	t.Helper()
	const auditor = "nqn.2026-11.dev.holdfast.contract:auditor"
	ok(t, r.on.AllowHost(t.Context(), r.export.NQN, auditor))
	h := mustConnect(t, r.export, auditor)
	for _, seed := range seeds {
		h.check(seed)
	}
	h.Close()
	ok(t, r.on.FenceHost(t.Context(), r.export.NQN, auditor))
}

// volumeExport describes an export of a raid to hosts, with ANA.
func volumeExport(t *testing.T, r spdk.RaidState, state spdk.ANAState, hosts ...string) spdk.Export {
	return spdk.Export{
		NQN: uniqueNQN(), Serial: "HFCT", Model: "contract", Bdev: r.Name, NSUUID: uuid.New(), Listen: freeAddress(t),
		Hosts: hosts, MinCNTLID: 1, MaxCNTLID: 100, ANAReporting: true, ANAState: state,
	}
}

const userNQN = "nqn.2026-11.dev.holdfast.contract:host:user"
