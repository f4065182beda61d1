// Package health turns what package condition finds into the CSI specification's volume health (version 1.13).
package health

import (
	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/holdfast-csi/holdfast/spdk/condition"
)

var severities = map[condition.Severity]csi.VolumeHealthErrorType{
	condition.Degraded:     csi.VolumeHealthErrorType_DEGRADED,
	condition.Inaccessible: csi.VolumeHealthErrorType_INACCESSIBLE,
	condition.DataLoss:     csi.VolumeHealthErrorType_DATA_LOSS,
}

// Of returns the health of a volume with these findings; none is a volume that is well.
func Of(volumeID string, findings []condition.Finding) *csi.VolumeHealth {
	h := &csi.VolumeHealth{VolumeId: volumeID}
	for _, f := range findings {
		h.HealthStatuses = append(h.HealthStatuses, &csi.VolumeHealth_VolumeHealthEntry{
			Status: severities[f.Severity], Reason: string(f.Reason), Message: f.Message,
		})
	}
	return h
}
