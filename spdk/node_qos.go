package spdk

import (
	"context"
	"fmt"
)

// RateLimits bound the reads and writes of whoever uses a bdev; 0 is no limit. Unmaps aren't counted, and neither is what the bdev's module
// does below it, such as a raid's rebuild (lib/bdev/bdev.c, bdev_qos_io_to_limit).
type RateLimits struct {
	// IOPerSec is reads and writes together. SPDK rounds it up to a multiple of 1000.
	IOPerSec int64 `json:"rw_ios_per_sec"`
	// The others are in MiB per second.
	MiBPerSec      int64 `json:"rw_mbytes_per_sec"`
	ReadMiBPerSec  int64 `json:"r_mbytes_per_sec"`
	WriteMiBPerSec int64 `json:"w_mbytes_per_sec"`
}

// BdevSetQosLimitParams names a bdev and its limits. All four are always given: one that is left out keeps its value.
type BdevSetQosLimitParams struct {
	Name           string `json:"name"`
	IOPerSec       int64  `json:"rw_ios_per_sec"`
	MiBPerSec      int64  `json:"rw_mbytes_per_sec"`
	ReadMiBPerSec  int64  `json:"r_mbytes_per_sec"`
	WriteMiBPerSec int64  `json:"w_mbytes_per_sec"`
}

var bdevSetQosLimit = register[BdevSetQosLimitParams, bool]("bdev_set_qos_limit")

// BdevSetQosLimit sets the limits of a bdev. SPDK answers -EAGAIN while another call does so.
func BdevSetQosLimit(ctx context.Context, c Caller, p BdevSetQosLimitParams) error {
	return bdevSetQosLimit.do(ctx, c, p)
}

// SetRateLimits gives a bdev these limits and no others, and reads them back. I/O that waits at a limit that is taken away goes on at once.
// The limits go with the bdev. A missing bdev is ErrNotFound; limits that SPDK turns into others are ErrConflict.
func (n *Node) SetRateLimits(ctx context.Context, bdev string, want RateLimits) error {
	b, err := n.bdev(ctx, bdev)
	if err != nil {
		return err
	}
	if b.AssignedRateLimits == want {
		return nil
	}
	err = BdevSetQosLimit(ctx, n.rpc, BdevSetQosLimitParams{
		Name: bdev, IOPerSec: want.IOPerSec, MiBPerSec: want.MiBPerSec, ReadMiBPerSec: want.ReadMiBPerSec, WriteMiBPerSec: want.WriteMiBPerSec,
	})
	if err != nil && !answered(err) {
		return n.wrap(err, "limit %s", bdev)
	}
	b, readErr := n.bdev(ctx, bdev)
	switch {
	case readErr != nil:
		return readErr
	case b.AssignedRateLimits == want:
		return nil
	case err != nil:
		return n.wrap(err, "limit %s", bdev)
	}
	return n.wrap(fmt.Errorf("%w: set were %+v, in force are %+v", ErrConflict, want, b.AssignedRateLimits), "limit %s", bdev)
}
