package volume

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/holdfast-csi/holdfast/spdk/timeouts"
)

// Limits bound what the hosts of a volume may do with it, in each second; 0 is no limit. They hold for reads and writes, not for discards,
// and neither for rebuilds nor for snapshots.
type Limits struct {
	// IOPS is reads and writes together, a multiple of timeouts.RateUnitIOPS.
	IOPS int64 `json:"iops,omitempty"`
	// Bandwidth is bytes read and written together, ReadBandwidth and WriteBandwidth those of one kind; multiples of timeouts.RateUnitBytes.
	Bandwidth      int64 `json:"bandwidth,omitempty"`
	ReadBandwidth  int64 `json:"readBandwidth,omitempty"`
	WriteBandwidth int64 `json:"writeBandwidth,omitempty"`
}

// unlimited is the value of a limit's parameter that takes the limit away.
const unlimited = "none"

// The highest limits. What SPDK computes of higher ones overflows (lib/bdev/bdev.c, bdev_qos_update_max_quota_per_timeslice).
const (
	maxIOPS      = 100_000_000
	maxBandwidth = 1 << 40
)

// IsZero says that there is no limit.
func (l Limits) IsZero() bool { return l == Limits{} }

// parseIOPS reads an I/O limit.
func parseIOPS(s string) (int64, error) {
	if s == unlimited {
		return 0, nil
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n < timeouts.RateUnitIOPS || n > maxIOPS || n%timeouts.RateUnitIOPS != 0 {
		return 0, fmt.Errorf("must be %s or a multiple of %d from %d to %d (SPDK counts no finer)", unlimited, timeouts.RateUnitIOPS, timeouts.RateUnitIOPS, maxIOPS)
	}
	return n, nil
}

// parseBandwidth reads a bandwidth limit: a number with Mi or Gi.
func parseBandwidth(s string) (int64, error) {
	if s == unlimited {
		return 0, nil
	}
	unit := int64(1 << 20)
	number, ok := strings.CutSuffix(s, "Mi")
	if !ok {
		number, ok = strings.CutSuffix(s, "Gi")
		unit = 1 << 30
	}
	n, err := strconv.ParseInt(number, 10, 64)
	if !ok || err != nil || n < 1 || n > maxBandwidth/unit {
		return 0, fmt.Errorf("must be %s or bytes per second from 1Mi to %dGi, such as 100Mi or 2Gi", unlimited, maxBandwidth>>30)
	}
	return n * unit, nil
}

// checkLimits refuses limits so low that the host's I/O could wait longer than its kernel does.
func (p Parameters) checkLimits() error {
	l := p.Limits
	if l.IsZero() {
		return nil
	}
	iops, bytes, err := timeouts.LeastRates(p.Budgets)
	if err != nil {
		return fmt.Errorf("parameters %s and %s can't be set: %w", ParamIOPSLimit, ParamBandwidthLimit, err)
	}
	why := fmt.Sprintf("with %s %s; at a lower limit the I/O that a host has under way takes longer than its kernel waits", ParamReplicaStallBudget, p.Budgets.ReplicaStall)
	if l.IOPS > 0 && l.IOPS < iops {
		return fmt.Errorf("parameter %s=\"%d\": must be from %d to %d %s", ParamIOPSLimit, l.IOPS, iops, maxIOPS, why)
	}
	for _, b := range []struct {
		key   string
		bytes int64
	}{{ParamBandwidthLimit, l.Bandwidth}, {ParamReadBandwidthLimit, l.ReadBandwidth}, {ParamWriteBandwidthLimit, l.WriteBandwidth}} {
		if b.bytes > 0 && b.bytes < bytes {
			return fmt.Errorf("parameter %s=\"%dMi\": must be from %dMi to %dGi %s", b.key, b.bytes>>20, bytes>>20, maxBandwidth>>30, why)
		}
	}
	return nil
}

// LimitsInForce says whether whatever runs of a volume was seen with the limits on record. What wasn't seen, or isn't complete, isn't.
func (v *Volume) LimitsInForce(seen Observed) bool {
	for _, a := range v.Running() {
		view := seen.Nodes[a.RaidHost]
		if view.Err != nil || view.Raid == nil || !view.Raid.Online || view.Raid.Limits != v.Parameters.Limits {
			return false
		}
	}
	return true
}
