package volume

import (
	"slices"
	"time"
)

// InFlight says what becomes of writes that were under way at a raid host when it was left or lost. Nobody was told that they were done, and
// they may be on some replicas and not on others.
type InFlight string

// States of writes in flight.
const (
	// InFlightNone: replicas that are in-sync are alike.
	InFlightNone InFlight = ""
	// InFlightResent: the hosts that sent them send them again, and replicas become alike by that.
	InFlightResent InFlight = "resent"
	// InFlightLost: a host that would have is lost. Only one replica can be a source, whichever.
	InFlightLost InFlight = "lost"
)

// StagedToWrite says whether the node may have writes under way.
func (p Publication) StagedToWrite() bool { return p.Staged && p.Writes() }

// StagedToWriteOn says whether a node may have writes under way; any node if it is empty.
func (v *Volume) StagedToWriteOn(node string) bool {
	return slices.ContainsFunc(v.Publications, func(p Publication) bool { return (node == "" || p.Node == node) && p.StagedToWrite() })
}

// SendAgain puts on record that the raid host is left or lost, whatever was under way there: the hosts send it again to the next.
func (v *Volume) SendAgain() {
	if v.InFlight == InFlightNone && v.StagedToWriteOn("") {
		v.InFlight = InFlightResent
	}
}

// ArriveAgain has guests say anew that they are connected to where the volume runs: it was made again there. While there is a standby they don't, for
// one that is connected to nothing else keeps it.
func (v *Volume) ArriveAgain() {
	if v.Standby != nil {
		return
	}
	for i := range v.Publications {
		if p := &v.Publications[i]; p.Staged && p.Node != v.Owner {
			p.Path, p.Standby = 0, 0
		}
	}
}

// GoOnWith makes one replica the only source, as nobody sends again what may be on it or not. In-sync ones that are lost by that are rebuilt.
func (v *Volume) GoOnWith(id string, now time.Time) {
	for _, r := range v.InState(ReplicaInSync, ReplicaSuspect, ReplicaRebuilding) {
		if r.ID != id {
			v.SetReplicaState(r.ID, ReplicaOutOfSync, now)
		}
	}
	v.InFlight = InFlightNone
}
