package condition_test

import (
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/holdfast-csi/holdfast/spdk/condition"
	"github.com/holdfast-csi/holdfast/spdk/volume"
)

// since is when every replica of a test came to be what it is.
var since = time.Date(2026, 11, 22, 15, 0, 0, 0, time.UTC)

// newVolume returns a record with a replica on each of the nodes, all in-sync, that nobody uses.
func newVolume(name string, nodes ...string) *volume.Volume {
	parameters, err := volume.ParseParameters(map[string]string{volume.ParamReplicas: fmt.Sprint(len(nodes))})
	if err != nil {
		panic(err)
	}
	v := &volume.Volume{ID: volume.IDFor(name), Name: name, UUID: uuid.New(), SizeBytes: 8 << 20, Parameters: parameters, Phase: volume.PhaseReady}
	for _, node := range nodes {
		v.Replicas = append(v.Replicas, volume.Replica{ID: replicaOn(node), Node: node, LvStore: "pool", State: volume.ReplicaInSync, Since: since})
	}
	return v
}

func replicaOn(node string) string { return "replica-" + node }

// runOn puts on record that the volume runs on a node, with a standby on another, staged on worker.
func runOn(v *volume.Volume, raidHost, standby string) {
	v.Assembly = &volume.Assembly{Number: 1, RaidHost: raidHost, Running: true}
	for _, r := range v.InState(volume.ReplicaInSync) {
		v.Assembly.Legs = append(v.Assembly.Legs, r.ID)
	}
	v.Standby = &volume.Assembly{Number: 2, RaidHost: standby, Legs: v.Assembly.Legs, Held: true, Running: true}
	v.Publications, v.Owner = []volume.Publication{{Node: "worker", Mode: volume.AccessSingleNodeWriter}}, "worker"
}

// allAnswer is the sight of nodes that answer and run nothing.
func allAnswer(nodes ...string) condition.Sight {
	s := condition.Sight{}
	for _, n := range nodes {
		s[n] = condition.NodeSight{}
	}
	return s
}

// stocked enters what lvols of a volume a node has, seen a minute after the replicas came to be what they are. Without loaded its lvstore
// isn't there.
func stocked(s condition.Sight, node string, v *volume.Volume, loaded bool, replicas ...string) {
	stock := &condition.Stock{At: since.Add(time.Minute), LvStores: map[string]bool{"pool": loaded}, Lvols: map[string]bool{}}
	for _, id := range replicas {
		stock.Lvols["pool/"+v.LvolName(*v.Replica(id))] = true
	}
	seen := s[node]
	seen.Stock = stock
	s[node] = seen
}
