package contract

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-csi/holdfast/spdk"
)

// newLimited makes a volume of two replicas, exports it and connects a host.
func newLimited(t *testing.T) (*volume, *host) {
	t.Helper()
	all := targets(t, 2)
	v := newVolume(t, 3, all...)
	e := volumeExport(t, v.raid, spdk.ANAOptimized, userNQN)
	export(t, v.raidHost, e)
	return v, mustConnect(t, e, userNQN)
}

func (v *volume) wantLimits(t *testing.T, want spdk.RateLimits) {
	t.Helper()
	if r, err := v.raidHost.Raid(t.Context(), v.raid.Name); err != nil || r.Limits != want {
		t.Errorf("in force are %+v, %v, wanted are %+v", r.Limits, err, want)
	}
}

// wantAtLeast times some I/O, which other work of the machine can only draw out.
func wantAtLeast(t *testing.T, least time.Duration, do func()) {
	t.Helper()
	begin := time.Now()
	do()
	if took := time.Since(begin); took < least {
		t.Errorf("it took %s, at the limit it is %s at least", took, least)
	}
}

func TestRateLimitsAreReadBackAndReplaced(t *testing.T) {
	v, _ := newLimited(t)
	v.wantLimits(t, spdk.RateLimits{})
	for _, want := range []spdk.RateLimits{
		{}, {IOPerSec: 5000}, {IOPerSec: 2000, MiBPerSec: 100, ReadMiBPerSec: 20, WriteMiBPerSec: 1 << 20}, {ReadMiBPerSec: 7}, {}, {IOPerSec: 100_000_000}, {},
	} {
		ok(t, v.raidHost.SetRateLimits(t.Context(), v.raid.Name, want))
		v.wantLimits(t, want)
		ok(t, v.raidHost.SetRateLimits(t.Context(), v.raid.Name, want))
		v.wantLimits(t, want)
	}
	if err := v.raidHost.SetRateLimits(t.Context(), "none-of-that-name", spdk.RateLimits{IOPerSec: 1000}); !errors.Is(err, spdk.ErrNotFound) {
		t.Errorf("a bdev that isn't there: %v", err)
	}
	err := spdk.BdevSetQosLimit(t.Context(), v.raidHost.rpc, spdk.BdevSetQosLimitParams{Name: "none-of-that-name", IOPerSec: 1000})
	if !spdk.IsErrno(err, unix.ENODEV) {
		t.Errorf("asked of SPDK: %v, want ENODEV", err)
	}
}

// SPDK rounds I/O up to a multiple of 1000, so that limits which are none don't become what was wanted.
func TestIOLimitIsRoundedUp(t *testing.T) {
	v, _ := newLimited(t)
	if err := v.raidHost.SetRateLimits(t.Context(), v.raid.Name, spdk.RateLimits{IOPerSec: 1001}); !errors.Is(err, spdk.ErrConflict) {
		t.Errorf("1001 I/O per second: %v", err)
	}
	v.wantLimits(t, spdk.RateLimits{IOPerSec: 2000})
}

func TestRaidsHostsAreHeldToItsLimits(t *testing.T) {
	v, h := newLimited(t)
	write := func(count int) {
		for i := range count {
			ok(t, h.Write(t.Context(), 1, pattern(1, 4096), int64(i%8)<<12))
		}
	}
	read := func(count int) {
		buf := make([]byte, 128<<10)
		for i := range count {
			ok(t, h.Read(t.Context(), 1, buf, int64(i%8)*int64(len(buf))))
		}
	}
	ok(t, v.raidHost.SetRateLimits(t.Context(), v.raid.Name, spdk.RateLimits{IOPerSec: 1000}))
	wantAtLeast(t, 400*time.Millisecond, func() { write(500) })
	ok(t, v.raidHost.SetRateLimits(t.Context(), v.raid.Name, spdk.RateLimits{MiBPerSec: 8}))
	wantAtLeast(t, 400*time.Millisecond, func() { read(16); read(16) })
	ok(t, v.raidHost.SetRateLimits(t.Context(), v.raid.Name, spdk.RateLimits{WriteMiBPerSec: 1}))
	wantAtLeast(t, 400*time.Millisecond, func() { write(150) })
}

// What waits at a limit goes on at once when that is taken away, and doesn't keep the limits from being changed: at the limit it would take
// minutes.
func TestIOThatWaitsAtALimitGoesOnWhenItIsTakenAway(t *testing.T) {
	v, h := newLimited(t)
	ok(t, v.raidHost.SetRateLimits(t.Context(), v.raid.Name, spdk.RateLimits{WriteMiBPerSec: 1}))
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	var wg sync.WaitGroup
	defer wg.Wait()
	begun := make(chan struct{}, 64)
	for i := range 64 {
		wg.Go(func() {
			buf := pattern(uint64(i), 128<<10)
			for n := range 16 {
				if err := h.Write(ctx, 1, buf, int64(i%8*16+n)*int64(len(buf))); err != nil {
					t.Error(err)
				}
				if n == 0 {
					begun <- struct{}{}
				}
			}
		})
	}
	<-begun
	ok(t, v.raidHost.SetRateLimits(t.Context(), v.raid.Name, spdk.RateLimits{}))
}

// The limits are the raid's: its rebuild isn't held to them.
func TestRebuildIsNotHeldToTheLimits(t *testing.T) {
	all := targets(t, 2)
	one, two := newReplica(t, all[0], volumeSize, all[0]), newReplica(t, all[1], volumeSize, all[0])
	raid := assemble(t, all[0], 2, attach(t, all[0], one))
	ok(t, all[0].SetRateLimits(t.Context(), raid.Name, spdk.RateLimits{MiBPerSec: 1}))
	leg := attach(t, all[0], two)
	begin := time.Now()
	ok(t, all[0].AddRaidLeg(t.Context(), raid.Name, leg.Bdev))
	eventually(t, "the leg is rebuilt", func(ctx context.Context) bool {
		r, err := all[0].Raid(ctx, raid.Name)
		return err == nil && r.Holds(leg.Bdev)
	})
	t.Logf("%d MiB rebuilt in %s", volumeSize/mib, time.Since(begin).Round(time.Millisecond))
	if r, err := all[0].Raid(t.Context(), raid.Name); err != nil || r.Limits != (spdk.RateLimits{MiBPerSec: 1}) {
		t.Errorf("with a leg more it is %+v, %v", r, err)
	}
}
