// Package volume owns the record of a volume: what it is made of, the state of each of its replicas, where it runs and who may
// use it. It owns the names of everything that belongs to a volume, and the one function, Plan, that says what is to be done
// for the record to come true.
//
// The record decides. Nothing is inferred from something's absence on an SPDK node: a replica is good because the record says
// in-sync, and an object is removed because the record says so.
package volume

import (
	"errors"
	"slices"
	"time"

	"github.com/google/uuid"
)

// Phase is where a volume is in its life.
type Phase string

// Phases. A record exists in PhaseCreating before the first call that makes anything, and in PhaseDeleting until the last
// thing that belonged to it is known to be gone: whatever happens in between, the record says what is left to do.
const (
	PhaseCreating Phase = "creating"
	PhaseReady    Phase = "ready"
	PhaseDeleting Phase = "deleting"
)

// ReplicaState says what is known of a replica's data.
type ReplicaState string

// Replica states.
//
//	planned ──made──▶ in-sync ──seen failing──▶ suspect ──ejected──▶ out-of-sync ──added──▶ rebuilding ──rebuilt──▶ in-sync
//	   any ──given up──▶ removing ──known to be gone──▶ (off the record)
//
// Only an in-sync replica is ever a source of data.
const (
	// ReplicaPlanned: its lvol may or may not exist; nothing has ever been written to it.
	ReplicaPlanned ReplicaState = "planned"
	// ReplicaInSync: a byte-for-byte image of the volume.
	ReplicaInSync ReplicaState = "in-sync"
	// ReplicaSuspect: its leg was seen failing; writes may have been acknowledged without it since.
	ReplicaSuspect ReplicaState = "suspect"
	// ReplicaOutOfSync: writes have been acknowledged without it; it must be rebuilt.
	ReplicaOutOfSync ReplicaState = "out-of-sync"
	// ReplicaRebuilding: it is being made an image of the volume again, by the raid that runs; until that is done it is worth no
	// more than one that is out-of-sync.
	ReplicaRebuilding ReplicaState = "rebuilding"
	// ReplicaRemoving: to be deleted; off the record when its lvol is known to be gone.
	ReplicaRemoving ReplicaState = "removing"
)

// Replica is one copy of the volume: an lvol.
type Replica struct {
	// ID is unique within the volume for all time: 8 hexadecimal digits, random.
	ID      string       `json:"id"`
	Node    string       `json:"node"`
	LvStore string       `json:"lvstore"`
	State   ReplicaState `json:"state"`
	// Since is when State was entered.
	Since time.Time `json:"since"`
	// SyncedAt is when it was last rebuilt; zero if it never was.
	SyncedAt time.Time `json:"syncedAt,omitzero"`
	// CloneOf is the name of the snapshot's lvol, in the same lvstore, on which the replica is made; "" is an empty one.
	CloneOf string `json:"cloneOf,omitempty"`
	// Strikes counts the times in a row that the replica was lost soon after it had been rebuilt, or while it was; see RebuildDelay.
	Strikes int `json:"strikes,omitempty"`
}

// Assembly is one running of a volume: a raid1 on one SPDK node over some of its replicas, exported to the hosts that use it.
type Assembly struct {
	// Number counts the volume's assemblies from 1. It gives the controller-id range: two assemblies of a volume must never
	// hand out the same controller id to one host.
	Number   uint32 `json:"number"`
	RaidHost string `json:"raidHost"`
	// Legs are the IDs of the replicas that it was made of, all in-sync then, and of those that were added since.
	Legs []string `json:"legs"`
	// Held: its target is ANA inaccessible, because another assembly may still serve the hosts.
	Held bool `json:"held,omitempty"`
	// Running: its target has been complete once, so a host may have attached. An assembly that never ran can be given up
	// without a fence.
	Running bool `json:"running,omitempty"`
	// Leaving: its guests are to let go of it, because its owner is about to switch to the standby.
	Leaving bool `json:"leaving,omitempty"`
	// Stopping: nobody uses it any more; it is being taken apart.
	Stopping bool `json:"stopping,omitempty"`
}

// CNTLIDs returns the lowest and highest NVMe controller id that the assembly's target hands out. 64 ranges of 1,000 take
// turns: FFF0h and above are reserved (NVM Express Base specification, Connect command).
func (a Assembly) CNTLIDs() (lowest, highest uint16) {
	lowest = uint16((a.Number-1)%64)*1000 + 1
	return lowest, lowest + 999
}

// FileSystemState says how far the making of a volume's file system is.
type FileSystemState string

// File system states. A volume without user data may be formatted; once a file system is on record as made, the device is
// never formatted again, whatever it reads.
const (
	FileSystemNone   FileSystemState = ""
	FileSystemMaking FileSystemState = "making"
	FileSystemMade   FileSystemState = "made"
)

// FileSystem is what the node service has put on the volume: a file system, and what lies below it.
type FileSystem struct {
	Type  string          `json:"type,omitempty"`
	State FileSystemState `json:"state,omitempty"`
	// SizeBytes is the size of the device that it was made for or last grown to; 0 is not known. Of an encrypted volume that is the open
	// LUKS device.
	SizeBytes int64 `json:"sizeBytes,omitempty"`
	// LUKS says how far the making of an encrypted volume's LUKS2 header is. Nothing is written through it before it is on record as made.
	LUKS FileSystemState `json:"luks,omitempty"`
}

// Volume is the record of a volume. Whoever owns the volume writes it, with compare-and-swap on Revision.
type Volume struct {
	ID   string `json:"id"`
	Name string `json:"name"`
	// Near is where the volume was wanted when it was made.
	Near Near `json:"near,omitzero"`
	// UUID names this incarnation; it is the UUID of the namespace that hosts see.
	UUID uuid.UUID `json:"uuid"`
	// SizeBytes is the volume's size, or what it is to be: a multiple of 4 MiB and of the cluster size of its lvstores. It never shrinks.
	// What it offers is CapacityBytes.
	SizeBytes int64 `json:"sizeBytes"`
	// GrowingFrom is what everything of the volume surely has while it is being grown to SizeBytes; 0 when that is done.
	GrowingFrom int64      `json:"growingFrom,omitempty"`
	Parameters  Parameters `json:"parameters"`
	// Modified: mutable parameters are other than those that the volume was created with.
	Modified     bool          `json:"modified,omitempty"`
	Phase        Phase         `json:"phase"`
	Replicas     []Replica     `json:"replicas"`
	Publications []Publication `json:"publications,omitempty"`
	// Owner is the CSI node whose node service looks after what runs of the volume; it alone changes where a running volume runs. It is the
	// first that stages the volume; others that do are guests. Empty: the controller owns the volume. It is set before any host attaches and
	// cleared after the last has let go of the volume, so that a volume without an owner has no write under way.
	Owner string `json:"owner,omitempty"`
	// Review: a publication went or came, or the parameters changed, while the volume had an owner, who is to read the record now and make sure
	// that its targets allow those hosts that are on record and no others, after whatever it was doing by an older one.
	Review bool `json:"review,omitempty"`
	// Assembly is where the volume runs; nil while nobody uses it.
	Assembly *Assembly `json:"assembly,omitempty"`
	// InFlight says what becomes of writes that were under way at the raid host before.
	InFlight InFlight `json:"inFlight,omitempty"`
	// Standby is an assembly kept ready beside the one that runs, held, on another raid host. Creating it wrote nothing.
	Standby *Assembly `json:"standby,omitempty"`
	// MoveTo asks the owner to make that SPDK node the raid host; "" is no wish.
	MoveTo string `json:"moveTo,omitempty"`
	// Retired are assemblies that are fenced off every replica that could be reached but are not known to be gone from
	// their raid hosts. They are taken apart when those answer again.
	Retired []Assembly `json:"retired,omitempty"`
	// Assemblies counts all that were ever made; the next has the number after it.
	Assemblies uint32     `json:"assemblies,omitempty"`
	FileSystem FileSystem `json:"fileSystem,omitzero"`
	// Content is what the volume was made of; nil is nothing.
	Content *Content `json:"content,omitempty"`
	// Snapshot is the snapshot that is being taken; nil is none.
	Snapshot  *SnapshotWish `json:"snapshot,omitempty"`
	CreatedAt time.Time     `json:"createdAt"`
	// Revision is the store's: it changes with each write.
	Revision uint64 `json:"-"`
}

// Replica returns the replica with that ID, or nil.
func (v *Volume) Replica(id string) *Replica {
	for i := range v.Replicas {
		if v.Replicas[i].ID == id {
			return &v.Replicas[i]
		}
	}
	return nil
}

// GoodLegs returns the legs of an assembly that are in-sync now. Its raid may be made again, as when its process was started
// again, of these alone.
func (v *Volume) GoodLegs(a Assembly) []string {
	var good []string
	for _, id := range a.Legs {
		if r := v.Replica(id); r != nil && r.State == ReplicaInSync {
			good = append(good, id)
		}
	}
	return good
}

// InState returns the replicas in any of the given states.
func (v *Volume) InState(states ...ReplicaState) []Replica {
	var found []Replica
	for _, r := range v.Replicas {
		if slices.Contains(states, r.State) {
			found = append(found, r)
		}
	}
	return found
}

// SetReplicaState changes a replica's state, and since when. One that is no longer a source is no leg of the standby either.
func (v *Volume) SetReplicaState(id string, state ReplicaState, now time.Time) {
	r := v.Replica(id)
	if r == nil || r.State == state {
		return
	}
	switch state {
	case ReplicaInSync:
		if r.State == ReplicaRebuilding {
			r.SyncedAt = now
		}
	case ReplicaOutOfSync:
		r.countLoss(now)
		fallthrough
	case ReplicaRebuilding, ReplicaRemoving:
		if v.Standby != nil {
			v.Standby.Legs = slices.DeleteFunc(v.Standby.Legs, func(leg string) bool { return leg == id })
		}
	}
	r.State, r.Since = state, now
}

// LegHosts are the NQNs of the raid hosts that a replica's export must allow, and no others. That which served last is one until a switch has
// fenced it: before hosts have left it, a raid without legs would fail what they send.
func (v *Volume) LegHosts(id string) []string {
	assemblies := v.Running()
	if former := v.LastServed(); former != nil && len(assemblies) > 0 && v.Assembly.Held {
		assemblies = append(assemblies, *former)
	}
	var hosts []string
	for _, a := range assemblies {
		if slices.Contains(a.Legs, id) {
			hosts = append(hosts, SPDKHostNQN(a.RaidHost))
		}
	}
	slices.Sort(hosts)
	return slices.Compact(hosts)
}

// LastServed is the former assembly that served hosts last; nil if there is none on record.
func (v *Volume) LastServed() *Assembly {
	for i := len(v.Retired) - 1; i >= 0; i-- {
		if !v.Retired[i].Held {
			return &v.Retired[i]
		}
	}
	return nil
}

// Running returns the assemblies that are to exist: the one that serves the hosts and the standby.
func (v *Volume) Running() []Assembly {
	var found []Assembly
	if v.Assembly != nil && !v.Assembly.Stopping {
		found = append(found, *v.Assembly)
		if v.Standby != nil {
			found = append(found, *v.Standby)
		}
	}
	return found
}

// RunningOn returns the assembly that is to exist on a node. An assembly and its standby are on different ones.
func (v *Volume) RunningOn(node string) (Assembly, bool) {
	for _, a := range v.Running() {
		if a.RaidHost == node {
			return a, true
		}
	}
	return Assembly{}, false
}

// Stop has the volume run nowhere: nobody uses it any more.
func (v *Volume) Stop() {
	if v.Assembly != nil {
		v.Assembly.Stopping = true
	}
	v.RetireStandby()
	v.MoveTo = ""
	if v.Snapshot != nil && v.Snapshot.State == WishPausing {
		v.VoidSnapshot("the volume was unpublished while it was taken")
	}
}

// RetireStandby gives the standby up. What is left of it is taken apart when its raid host answers.
func (v *Volume) RetireStandby() {
	if v.Standby != nil {
		v.Retired = append(v.Retired, *v.Standby)
		v.Standby = nil
	}
}

// IsRetiredOn says whether something of a former assembly may be left on a node.
func (v *Volume) IsRetiredOn(node string) bool {
	return slices.ContainsFunc(v.Retired, func(a Assembly) bool { return a.RaidHost == node })
}

// Clone returns a deep copy.
func (v *Volume) Clone() *Volume {
	c := *v
	c.Replicas = slices.Clone(v.Replicas)
	c.Publications = slices.Clone(v.Publications)
	c.Parameters = v.Parameters.clone()
	c.Near = v.Near.clone()
	if v.Assembly != nil {
		a := v.Assembly.clone()
		c.Assembly = &a
	}
	if v.Standby != nil {
		a := v.Standby.clone()
		c.Standby = &a
	}
	c.Retired = nil
	for _, a := range v.Retired {
		c.Retired = append(c.Retired, a.clone())
	}
	if v.Content != nil {
		content := *v.Content
		c.Content = &content
	}
	if v.Snapshot != nil {
		c.Snapshot = v.Snapshot.clone()
	}
	return &c
}

func (a Assembly) clone() Assembly {
	a.Legs = slices.Clone(a.Legs)
	return a
}

// Sentinels of the domain. The driver maps them to gRPC codes in one table.
var (
	// ErrNotFound: no volume with that ID is on record.
	ErrNotFound = errors.New("no such volume")
	// ErrExists: a record with that ID exists already.
	ErrExists = errors.New("volume exists")
	// ErrConflict: the record was written by someone else since it was read.
	ErrConflict = errors.New("the volume's record was changed by another writer meanwhile")
	// ErrIncompatible: the volume exists with properties that the request does not fit.
	ErrIncompatible = errors.New("the volume exists with other properties")
	// ErrNoSpace: no placement has room.
	ErrNoSpace = errors.New("not enough space")
	// ErrBusy: another operation on the volume is under way.
	ErrBusy = errors.New("another operation on the volume is under way")
	// ErrInUse: the volume is published elsewhere, or not in a state that allows the operation.
	ErrInUse = errors.New("the volume is in use")
	// ErrNoGoodReplica: no replica that the record calls in-sync can be reached.
	ErrNoGoodReplica = errors.New("no in-sync replica can be reached")
	// ErrPrecondition: the volume or its content is not in the state that the request needs.
	ErrPrecondition = errors.New("the volume is not in the state that this needs")
	// ErrNodeUnknown: an SPDK node that the configuration doesn't name.
	ErrNodeUnknown = errors.New("no such SPDK node")
	// ErrNoKey: the configuration has no key of the name that the volume's parameters give.
	ErrNoKey = errors.New("no such key")
	// ErrHostUnknown: a CSI node whose node service has never been seen.
	ErrHostUnknown = errors.New("no such node")
	// ErrNodeDown: an SPDK node that is needed does not answer.
	ErrNodeDown = errors.New("SPDK node does not answer")
)
