package node

import (
	"testing"
	"time"

	"github.com/holdfast-csi/holdfast/spdk/volume"
)

func trimmedVolume(interval time.Duration) *watchedVolume {
	v := &volume.Volume{Parameters: volume.Parameters{Replicas: 2, TrimInterval: interval}, Assembly: &volume.Assembly{Number: 1, Running: true}}
	for _, id := range []string{"a", "b"} {
		v.Replicas = append(v.Replicas, volume.Replica{ID: id, Node: id, State: volume.ReplicaInSync})
	}
	return &watchedVolume{record: v}
}

// hours returns at which hours of a week the volume is trimmed.
func (wv *watchedVolume) hours(spread float64) []int {
	var hours []int
	for hour := range 7 * 24 {
		if wv.trimDue(time.Unix(0, 0).Add(time.Duration(hour)*time.Hour), spread) {
			hours = append(hours, hour)
		}
	}
	return hours
}

func TestTrimsAreSpreadAndAnIntervalApart(t *testing.T) {
	for spread, first := range map[float64]int{0: 0, 0.5: 12, 0.99: 24} {
		got := trimmedVolume(24 * time.Hour).hours(spread)
		if len(got) < 6 || len(got) > 8 || got[0] != first {
			t.Errorf("with spread %g trimmed at %v", spread, got)
		}
		for i := 1; i < len(got); i++ {
			if apart := got[i] - got[i-1]; apart < 21 || apart > 27 {
				t.Errorf("with spread %g %d hours apart", spread, apart)
			}
		}
	}
	if got := trimmedVolume(0).hours(0); len(got) > 0 {
		t.Errorf("without an interval trimmed at %v", got)
	}
}

func TestVolumeIsNotTrimmedWhileAnythingOfItIsUrgent(t *testing.T) {
	for name, change := range map[string]func(v *volume.Volume){
		"degraded":          func(v *volume.Volume) { v.Replicas[1].State = volume.ReplicaOutOfSync },
		"rebuilding":        func(v *volume.Volume) { v.Replicas[1].State = volume.ReplicaRebuilding },
		"suspect":           func(v *volume.Volume) { v.Replicas[1].State = volume.ReplicaSuspect },
		"replica lost":      func(v *volume.Volume) { v.Replicas = v.Replicas[:1] },
		"replica too many":  func(v *volume.Volume) { v.Parameters.Replicas = 1 },
		"switching":         func(v *volume.Volume) { v.Assembly.Held = true },
		"to be moved":       func(v *volume.Volume) { v.MoveTo = "b" },
		"being snapshotted": func(v *volume.Volume) { v.Snapshot = &volume.SnapshotWish{} },
		"growing":           func(v *volume.Volume) { v.GrowingFrom = 1 },
		"not running":       func(v *volume.Volume) { v.Assembly = nil },
	} {
		wv := trimmedVolume(time.Hour)
		whole := wv.record.Clone()
		change(wv.record)
		if got := wv.hours(0); len(got) > 0 {
			t.Errorf("%s: trimmed at %v", name, got)
		}
		wv.record = whole
		if !wv.trimDue(time.Unix(0, 0).Add(200*time.Hour), 0) {
			t.Errorf("%s: not due when it is whole again", name)
		}
	}
}
