// Package remote lets processes on other machines use a store: the process that has it serves it over HTTP on mutual TLS or a
// Unix socket, the others are its clients. It is for use without Kubernetes, where the controller holds the embedded store and
// node services on many machines share its records.
//
// The protocol carries the store's methods one to one; the revision travels beside the record, and a sentinel error as its name.
package remote

import (
	"errors"

	"github.com/holdfast-csi/holdfast/spdk/volume"
)

// record is a volume on the wire: its revision is not part of its own JSON.
type record struct {
	Revision uint64         `json:"revision"`
	Volume   *volume.Volume `json:"volume"`
}

func pack(v *volume.Volume) record { return record{Revision: v.Revision, Volume: v} }

func (r record) unpack() *volume.Volume {
	r.Volume.Revision = r.Revision
	return r.Volume
}

// snapshotRecord is a snapshot on the wire.
type snapshotRecord struct {
	Revision uint64           `json:"revision"`
	Snapshot *volume.Snapshot `json:"snapshot"`
}

func packSnapshot(s *volume.Snapshot) snapshotRecord {
	return snapshotRecord{Revision: s.Revision, Snapshot: s}
}

func (r snapshotRecord) unpack() *volume.Snapshot {
	r.Snapshot.Revision = r.Revision
	return r.Snapshot
}

// cordon is whether an SPDK node is cordoned, on the wire.
type cordon struct {
	Node     string `json:"node"`
	Cordoned bool   `json:"cordoned"`
}

// failure is an answer that is none. Kind names a sentinel of package volume.
type failure struct {
	Kind    string `json:"kind"`
	Message string `json:"message"`
}

// kinds are the sentinels that a store answers.
var kinds = map[string]error{
	"notFound":    volume.ErrNotFound,
	"noSnapshot":  volume.ErrNoSnapshot,
	"exists":      volume.ErrExists,
	"conflict":    volume.ErrConflict,
	"hostUnknown": volume.ErrHostUnknown,
}

func failureOf(err error) failure {
	for kind, sentinel := range kinds {
		if errors.Is(err, sentinel) {
			return failure{Kind: kind, Message: err.Error()}
		}
	}
	return failure{Kind: "other", Message: err.Error()}
}

// remoteError is a failure as the client's caller sees it.
type remoteError struct{ failure }

func (e *remoteError) Error() string { return e.Message }

// Is makes the failure the sentinel that it names.
func (e *remoteError) Is(target error) bool { return kinds[e.Kind] == target && target != nil }

// Paths of the methods.
const (
	pathVolumes = "/v1/volumes"
	pathHosts   = "/v1/hosts"

	pathSnapshots = "/v1/snapshots"
	pathWishes    = "/v1/wishes"
	pathCordons   = "/v1/cordons"
)

// maxBody bounds a request and an answer but for lists, in bytes. A record has some hundred bytes a replica.
const maxBody = 1 << 20
