package converge

import (
	"errors"

	"github.com/holdfast-csi/holdfast/spdk/volume"
)

// BesidesGrowth returns the error of a run, or nil if all that failed in it is that the volume, or a replica, isn't as large yet as it is
// to be: nobody is kept from data or redundancy by that.
func BesidesGrowth(err error) error {
	var actions *ActionsError
	var blocked *BlockedError
	if !errors.As(err, &actions) || errors.As(err, &blocked) {
		return err
	}
	for _, f := range actions.Failed {
		if f.Action.Kind != volume.GrowReplica && f.Action.Kind != volume.GrowRaid {
			return err
		}
	}
	return nil
}
