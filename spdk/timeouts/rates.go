package timeouts

import (
	"fmt"
	"time"
)

// What a host can have outstanding at one volume, all of which may wait at a rate limit at once.
const (
	// HostQueues is the most I/O queues with which a host connects to a target (nr_io_queues); Linux takes fewer where it has fewer CPUs.
	// Each command that waits at a limit holds a buffer of the raid host's process, which has 1024 large ones by default for all volumes and
	// for its replicas: one volume must not be able to hold all of them (docs/spdk.md, "Rate limits").
	HostQueues = 4
	// queueDepth is how many commands Linux has outstanding on a queue of the default queue_size of 128 (drivers/nvme/host/fabrics.h,
	// NVMF_DEF_QUEUE_SIZE).
	queueDepth = 127
	// maxIOBytes is the largest command that SPDK's TCP transport takes by default (max_io_size).
	maxIOBytes = 128 << 10
)

// Units of SPDK's rate limits (lib/bdev/bdev.c): it rounds up to 1000 I/O, and counts bandwidth in MiB.
const (
	RateUnitIOPS  = 1000
	RateUnitBytes = 1 << 20
)

// LeastRates returns the lowest rate limits, in I/O and in bytes per second, under which a host's I/O is answered in time: what waits at
// the limit when a replica fails waits for the replica as well, and both together must be less than the kernel's I/O timeout (line 4), or
// the host resets its path although nothing is wrong with it. They are whole units. A stall budget that leaves no time for a limit is an
// error.
func LeastRates(b Budgets) (iops, bytes int64, err error) {
	left := int64((HostIOTimeout - margin - b.ReplicaStall) / time.Second)
	if left <= 0 {
		return 0, 0, fmt.Errorf("a replica stall budget of %s leaves no time for I/O to wait at a limit before the kernel's I/O timeout of %s; with %s or less there is",
			b.ReplicaStall, HostIOTimeout, HostIOTimeout-margin-time.Second)
	}
	up := func(n, unit int64) int64 { return (n + left*unit - 1) / (left * unit) * unit }
	return up(HostQueues*queueDepth, RateUnitIOPS), up(HostQueues*queueDepth*maxIOBytes, RateUnitBytes), nil
}
