package nvmetcp

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"
)

const (
	testNQN  = "nqn.2024-01.io.example:vol1"
	testHost = "nqn.2024-01.io.example:host1"
)

var testUUID = [16]byte{0xaa, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}

// fixture is a target with one subsystem, listener and namespace.
type fixture struct {
	t    *testing.T
	tgt  *Target
	sub  *Subsystem
	disk *memDisk
	addr string
}

func newFixture(t *testing.T, tc TargetConfig, sc SubsystemConfig) *fixture {
	t.Helper()
	if tc.KeepAliveUnits == 0 {
		tc.KeepAliveUnits, tc.MinKATO = 1, 100*time.Millisecond
	}
	sc.NQN, sc.ANAReporting = testNQN, true
	f := &fixture{t: t, tgt: NewTarget(tc), disk: newMemDisk(512, 8<<20)}
	t.Cleanup(func() { _ = f.tgt.Close() })
	f.must(f.tgt.Listen("127.0.0.1:0"))
	f.addr = f.tgt.Addr()
	var err error
	f.sub, err = f.tgt.AddSubsystem(sc)
	f.must(err)
	f.must(f.sub.AddListener(f.addr))
	f.sub.AllowHost(testHost)
	f.must(f.sub.AddNamespace(NamespaceConfig{NSID: 1, Device: f.disk, UUID: testUUID, NGUID: testUUID}))
	return f
}

func (f *fixture) must(err error) {
	f.t.Helper()
	if err != nil {
		f.t.Fatal(err)
	}
}

func (f *fixture) hostConfig() HostConfig {
	return HostConfig{Addr: f.addr, SubNQN: testNQN, HostNQN: testHost, HostID: [16]byte{9}, IOQueues: 2}
}

func (f *fixture) connect(cfg HostConfig) *Controller {
	f.t.Helper()
	c, err := Connect(f.t.Context(), cfg)
	f.must(err)
	f.t.Cleanup(func() { _ = c.Close() })
	return c
}

// patient is a context for things that must happen.
func patient(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func wantStatus(t *testing.T, err error, sct, sc uint8) {
	t.Helper()
	var se *StatusError
	if !errors.As(err, &se) || se.SCT != sct || se.SC != sc {
		t.Fatalf("got %v, want NVMe status %d/%02xh", err, sct, sc)
	}
}

func random(n int) []byte {
	p := make([]byte, n)
	for i := range p {
		p[i] = byte(rand.Uint32())
	}
	return p
}

func TestDataSurvivesEverySizeAndDigestSetting(t *testing.T) {
	for _, digests := range []struct{ header, data bool }{{false, false}, {true, false}, {false, true}, {true, true}} {
		t.Run(fmt.Sprintf("header=%v data=%v", digests.header, digests.data), func(t *testing.T) {
			f := newFixture(t, TargetConfig{}, SubsystemConfig{})
			cfg := f.hostConfig()
			cfg.HeaderDigest, cfg.DataDigest = digests.header, digests.data
			c := f.connect(cfg)
			for _, n := range []int{512, 4096, 8192, 8704, 128 << 10, 128<<10 + 512, 1 << 20} {
				want := random(n)
				f.must(c.Write(patient(t), 1, want, 4096))
				if !bytes.Equal(f.disk.data[4096:4096+n], want) {
					t.Fatalf("write of %d bytes: the device holds something else", n)
				}
				got := make([]byte, n)
				f.must(c.Read(patient(t), 1, got, 4096))
				if !bytes.Equal(got, want) {
					t.Fatalf("read of %d bytes differs from what was written", n)
				}
			}
		})
	}
}

func TestCommandsBesideReadAndWrite(t *testing.T) {
	f := newFixture(t, TargetConfig{}, SubsystemConfig{})
	c := f.connect(f.hostConfig())
	ctx := patient(t)
	f.must(c.Write(ctx, 1, bytes.Repeat([]byte{7}, 8192), 0))
	f.must(c.WriteZeroes(ctx, 1, 0, 4096, false))
	if f.disk.data[0] != 0 || f.disk.data[4096] != 7 {
		t.Error("write zeroes covered the wrong range")
	}
	wantStatus(t, c.WriteZeroes(ctx, 1, 0, 4096, true), SCTGeneric, SCInvalidField)
	f.must(c.Deallocate(ctx, 1, 4096, 4096))
	if f.disk.unmapped != 4096 {
		t.Errorf("deallocated %d bytes, want 4096", f.disk.unmapped)
	}
	f.must(c.Flush(ctx, 1))
	if f.disk.flushes != 1 {
		t.Errorf("flushed %d times", f.disk.flushes)
	}
	f.must(c.Compare(ctx, 1, make([]byte, 4096), 0))
	wantStatus(t, c.Compare(ctx, 1, random(4096), 0), SCTMedia, SCCompareFailure)
	wantStatus(t, c.Read(ctx, 1, make([]byte, 512), 8<<20), SCTGeneric, SCLBAOutOfRange)
	wantStatus(t, c.Read(ctx, 2, make([]byte, 512), 0), SCTGeneric, SCInvalidNamespace)
	var cmd sqe
	cmd[0] = 0x70
	cmd.setNSID(1)
	wantStatus(t, c.ioCommand(ctx, &cmd, nil), SCTGeneric, SCInvalidOpcode)
}

// SPDK announces one range of 2^21 blocks and leaves the rest out without an error.
func TestDeallocateLeavesOutWhatIsBeyondTheLimits(t *testing.T) {
	f := newFixture(t, TargetConfig{}, SubsystemConfig{})
	c := f.connect(f.hostConfig())
	const n = 256
	ranges := make([]byte, n*dsmRange)
	for i := range n {
		le.PutUint32(ranges[i*dsmRange+4:], 1)
		le.PutUint64(ranges[i*dsmRange+8:], uint64(2*i))
	}
	var cmd sqe
	cmd[0] = opDSM
	cmd.setNSID(1)
	cmd.setDword(10, n-1)
	cmd.setDword(11, 1<<2)
	f.must(c.ioCommand(patient(t), &cmd, ranges))
	if f.disk.unmapped != 512 {
		t.Errorf("deallocated %d bytes, want the first range's 512", f.disk.unmapped)
	}
	if c.maxDSM != maxDSMRange {
		t.Errorf("the host deallocates %d blocks at once, want %d", c.maxDSM, maxDSMRange)
	}
}

func TestDeviceStatusReachesTheHost(t *testing.T) {
	f := newFixture(t, TargetConfig{}, SubsystemConfig{})
	c := f.connect(f.hostConfig())
	for _, tc := range []struct {
		err     error
		sct, sc uint8
	}{
		{fmt.Errorf("disk: %w", &StatusError{SCT: SCTMedia, SC: SCUnrecoveredRead}), SCTMedia, SCUnrecoveredRead},
		{errors.New("anything"), SCTGeneric, SCInternalError},
	} {
		f.disk.setHook(func(context.Context, string, int64, int64) error { return tc.err })
		wantStatus(t, c.Read(patient(t), 1, make([]byte, 512), 0), tc.sct, tc.sc)
	}
}

func TestHungCommandBlocksNoOther(t *testing.T) {
	f := newFixture(t, TargetConfig{}, SubsystemConfig{})
	cfg := f.hostConfig()
	cfg.IOQueues = 1
	c := f.connect(cfg)
	entered, release := make(chan struct{}), make(chan struct{})
	f.disk.setHook(func(ctx context.Context, op string, off, _ int64) error {
		if op == "write" && off == 0 {
			close(entered)
			select {
			case <-release:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		return nil
	})
	hung := make(chan error, 1)
	go func() { hung <- c.Write(patient(t), 1, make([]byte, 64<<10), 0) }()
	<-entered
	for i := range 50 {
		f.must(c.Write(patient(t), 1, make([]byte, 4096), int64(1<<20+i*4096)))
	}
	close(release)
	f.must(<-hung)
}

func TestManyCommandsInFlight(t *testing.T) {
	f := newFixture(t, TargetConfig{}, SubsystemConfig{})
	cfg := f.hostConfig()
	cfg.DataDigest = true
	c := f.connect(cfg)
	var wg sync.WaitGroup
	for w := range 16 {
		wg.Go(func() {
			off := int64(w) * (256 << 10)
			for range 20 {
				want := random(4096 + 512*rand.IntN(300))
				got := make([]byte, len(want))
				if err := errors.Join(c.Write(patient(t), 1, want, off), c.Read(patient(t), 1, got, off)); err != nil {
					t.Error(err)
					return
				}
				if !bytes.Equal(got, want) {
					t.Errorf("worker %d read something else than it wrote", w)
				}
			}
		})
	}
	wg.Wait()
}

func TestCallerThatGivesUpLeavesTheQueueUsable(t *testing.T) {
	f := newFixture(t, TargetConfig{}, SubsystemConfig{})
	c := f.connect(f.hostConfig())
	entered, release := make(chan struct{}, 1), make(chan struct{})
	f.disk.setHook(func(ctx context.Context, op string, _, _ int64) error {
		if op == "read" {
			entered <- struct{}{}
			<-release
		}
		return nil
	})
	ctx, cancel := context.WithCancel(t.Context())
	failed := make(chan error, 1)
	p := make([]byte, 4096)
	go func() { failed <- c.Read(ctx, 1, p, 0) }()
	<-entered
	cancel()
	if err := <-failed; !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v, want the context's error", err)
	}
	close(release)
	f.disk.setHook(nil)
	f.must(c.Read(patient(t), 1, p, 0))
}
