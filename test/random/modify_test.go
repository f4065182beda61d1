package random_test

import (
	"context"
	"fmt"
	"strconv"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/holdfast-csi/holdfast/spdk"
	"github.com/holdfast-csi/holdfast/spdk/converge"
	"github.com/holdfast-csi/holdfast/spdk/volume"
)

// modify begins a call that changes the limits and the number of replicas, or one of them, or repeats one.
func (v *vol) modify() {
	rng := v.w.rng
	if v.mutable == nil || rng.IntN(3) > 0 {
		v.mutable = map[string]string{}
		if rng.IntN(3) > 0 {
			v.mutable[volume.ParamReplicas] = strconv.Itoa(1 + rng.IntN(3))
		}
		if len(v.mutable) == 0 || rng.IntN(2) == 0 {
			// Low enough to be met by what is written here, high enough for nobody to wait long.
			v.mutable[volume.ParamBandwidthLimit] = []string{"none", "4Mi", "64Mi"}[rng.IntN(3)]
			v.mutable[volume.ParamIOPSLimit] = []string{"none", "1000"}[rng.IntN(2)]
		}
	}
	v.begin(fmt.Sprintf("modify to %v", v.mutable), v.w.controller.process, v.controllerModify, func(error) {})
}

func (v *vol) controllerModify(ctx context.Context) error {
	_, err := v.w.controller.ControllerModifyVolume(ctx, &csi.ControllerModifyVolumeRequest{VolumeId: v.id(), MutableParameters: v.mutable})
	return err
}

// copies is how many replicas the volume has or is to have. Those that are on their way off it don't count.
func copies(record *volume.Volume) []volume.Replica {
	return record.InState(volume.ReplicaPlanned, volume.ReplicaInSync, volume.ReplicaSuspect, volume.ReplicaOutOfSync, volume.ReplicaRebuilding)
}

// unlimited says which raid of a volume has other limits than those on record.
func (v *vol) unlimited() string {
	record := v.w.store.peek(v.id())
	if record == nil {
		return ""
	}
	want := converge.RateLimits(record.Parameters.Limits)
	for _, a := range record.Running() {
		bdevs, err := spdk.BdevGetBdevs(context.Background(), inspector{v.w.sim(a.RaidHost)}, spdk.BdevGetBdevsParams{Name: record.RaidName()})
		switch {
		case err != nil:
			return err.Error()
		case bdevs[0].AssignedRateLimits != want:
			return fmt.Sprintf("its raid on %s has the limits %+v, wanted are %+v", a.RaidHost, bdevs[0].AssignedRateLimits, want)
		}
	}
	return ""
}
