package converge

import (
	"context"

	"k8s.io/klog/v2"

	"github.com/holdfast-csi/holdfast/spdk"
	"github.com/holdfast-csi/holdfast/spdk/timeouts"
	"github.com/holdfast-csi/holdfast/spdk/volume"
)

// RateLimits are the limits of a volume as SPDK takes them.
func RateLimits(l volume.Limits) spdk.RateLimits {
	return spdk.RateLimits{
		IOPerSec: l.IOPS, MiBPerSec: l.Bandwidth / timeouts.RateUnitBytes,
		ReadMiBPerSec: l.ReadBandwidth / timeouts.RateUnitBytes, WriteMiBPerSec: l.WriteBandwidth / timeouts.RateUnitBytes,
	}
}

// limitsSeen are limits as SPDK tells them.
func limitsSeen(l spdk.RateLimits) volume.Limits {
	return volume.Limits{
		IOPS: l.IOPerSec, Bandwidth: l.MiBPerSec * timeouts.RateUnitBytes,
		ReadBandwidth: l.ReadMiBPerSec * timeouts.RateUnitBytes, WriteBandwidth: l.WriteMiBPerSec * timeouts.RateUnitBytes,
	}
}

// besidesLimits returns the failures of a run without those to set a limit, which it logs: nobody is kept from data, a standby or
// redundancy by that. Who wants to know whether limits are in force reads them back (volume.LimitsInForce).
func besidesLimits(ctx context.Context, v *volume.Volume, failed map[volume.Action]*ActionError) map[volume.Action]*ActionError {
	others := map[volume.Action]*ActionError{}
	for action, err := range failed {
		if action.Kind != volume.LimitRaid {
			others[action] = err
			continue
		}
		klog.FromContext(ctx).Error(err.Err, "Limits of a volume can't be set; it is tried again", "volumeID", v.ID, "node", action.Node, "limits", v.Parameters.Limits)
	}
	return others
}
