package sim

import (
	"context"
	"testing"
	"time"
)

func TestErrorBdevFailsWhatItIsTold(t *testing.T) {
	n := newNode(t, "n", nil)
	c := dialNode(t, n)
	c.ok("bdev_malloc_create", `{"name":"m","block_size":4096,"num_blocks":256}`)
	c.ok("bdev_error_create", `{"base_name":"m"}`)
	c.ok("bdev_error_inject_error", `{"name":"EE_m","io_type":"write","error_type":"failure","num":1}`)
	if n.writeBdev("EE_m", 0, pattern(1, 4096)) == nil {
		t.Fatal("the first write succeeded")
	}
	mustWrite(t, n, "EE_m", 0, pattern(2, 4096))
	mustHold(t, n, "m", 0, pattern(2, 4096))
}

func TestNullBdevTakesAnythingAndKeepsNothing(t *testing.T) {
	n := newNode(t, "n", nil)
	dialNode(t, n).ok("bdev_null_create", createNull)
	mustWrite(t, n, "null", 0, pattern(1, 4096))
	mustHold(t, n, "null", 0, make([]byte, 4096))
}

func TestQosLimitSlowsABdevDown(t *testing.T) {
	n := newNode(t, "n", nil)
	c := dialNode(t, n)
	c.thin("v", 16)
	c.ok("bdev_set_qos_limit", `{"name":"lvs/v","w_mbytes_per_sec":4}`)
	start := time.Now()
	mustWrite(t, n, "lvs/v", 0, pattern(1, 2*mib))
	mustWrite(t, n, "lvs/v", 0, pattern(1, 4096))
	if got := time.Since(start); got < 200*time.Millisecond {
		t.Errorf("2 MiB at 4 MiB a second took %v", got)
	}
}

// I/O that waits at a limit is looked at anew when the limit changes, and goes on at once when it is taken away.
func TestIOThatWaitsAtALimitGoesOnWhenThatIsTakenAway(t *testing.T) {
	n := newNode(t, "n", nil)
	c := dialNode(t, n)
	c.thin("v", 16)
	c.ok("bdev_set_qos_limit", `{"name":"lvs/v","w_mbytes_per_sec":1}`)
	mustWrite(t, n, "lvs/v", 0, pattern(1, 16*mib)) // an I/O goes on while any quota is left, and those after it wait for 16 s
	b, release, err := n.openForTest("lvs/v")
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	written := make(chan error, 1)
	go func() { written <- b.WriteAt(ctx, pattern(2, 4096), 0) }()
	c.ok("bdev_set_qos_limit", `{"name":"lvs/v","w_mbytes_per_sec":0}`)
	if err := <-written; err != nil {
		t.Error(err)
	}
}

func TestIostatCountsWhatABdevDid(t *testing.T) {
	n := newNode(t, "n", nil)
	c := dialNode(t, n)
	c.thin("v", 4)
	mustWrite(t, n, "lvs/v", 0, pattern(1, 8192))
	n.readBdev(t, "lvs/v", 0, 4096)
	got := decodeAs[struct {
		Bdevs []struct {
			Written uint64 `json:"bytes_written"`
			Writes  uint64 `json:"num_write_ops"`
			Read    uint64 `json:"bytes_read"`
		} `json:"bdevs"`
	}](t, c.ok("bdev_get_iostat", `{"names":["lvs/v"]}`))
	if len(got.Bdevs) != 1 || got.Bdevs[0].Written != 8192 || got.Bdevs[0].Writes != 1 || got.Bdevs[0].Read != 4096 {
		t.Errorf("iostat: %+v", got)
	}
}

func TestDiskHangHoldsIOBackUntilItIsOver(t *testing.T) {
	n := newNode(t, "n", nil)
	dialNode(t, n).thin("v", 4)
	mustWrite(t, n, "lvs/v", 0, pattern(1, 4096))
	if err := n.SetDiskFault("lvs", DiskFault{Hang: true}); err != nil {
		t.Fatal(err)
	}
	b, release, err := n.openForTest("lvs/v")
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if err := b.ReadAt(ctx, make([]byte, 4096), 0); ctx.Err() == nil {
		t.Fatalf("a read of a hung disk ended: %v", err)
	}
	if err := n.SetDiskFault("lvs", DiskFault{}); err != nil {
		t.Fatal(err)
	}
	mustHold(t, n, "lvs/v", 0, pattern(1, 4096))
}
