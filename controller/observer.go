package controller

import (
	"time"

	"github.com/holdfast-csi/holdfast/spdk/volume"
)

// Observer is told of what the controller does. Its methods return at once, and many goroutines call them.
type Observer interface {
	// ReplicaChanged: the controller has put another state of a replica on record.
	ReplicaChanged(change volume.ReplicaChange)
	// ReplicasReplaced: so many replicas of a volume take the places of lost ones.
	ReplicasReplaced(count int)
	// Swept: a sweep has ended; err says what is left undone, as in Server.Sweep.
	Swept(took time.Duration, err error)
}

// unobserved is an Observer that nobody listens to.
type unobserved struct{}

func (unobserved) ReplicaChanged(volume.ReplicaChange) {}
func (unobserved) ReplicasReplaced(int)                {}
func (unobserved) Swept(time.Duration, error)          {}
