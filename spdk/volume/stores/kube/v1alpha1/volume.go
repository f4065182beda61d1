package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// Volume is the record of a volume. Its name is the CSI volume ID.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:scope=Cluster,shortName=hfv,categories=holdfast
// +kubebuilder:subresource:status
// +kubebuilder:selectablefield:JSONPath=`.spec.owner`
// +kubebuilder:selectablefield:JSONPath=`.spec.guestsWanted`
// +kubebuilder:printcolumn:name="Volume",type=string,JSONPath=`.spec.name`
// +kubebuilder:printcolumn:name="Size",type=string,JSONPath=`.status.size`
// +kubebuilder:printcolumn:name="In sync",type=string,JSONPath=`.status.replicas`
// +kubebuilder:printcolumn:name="State",type=string,JSONPath=`.status.state`
// +kubebuilder:printcolumn:name="Raid host",type=string,JSONPath=`.spec.assembly.raidHost`
// +kubebuilder:printcolumn:name="Published to",type=string,JSONPath=`.status.publishedTo`
// +kubebuilder:printcolumn:name="Standby",type=string,JSONPath=`.spec.standby.raidHost`,priority=1
// +kubebuilder:printcolumn:name="Owner",type=string,JSONPath=`.spec.owner`,priority=1
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type Volume struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec   VolumeSpec   `json:"spec"`
	Status VolumeStatus `json:"status,omitempty"`
}

// VolumeList is a list of Volumes.
//
// +kubebuilder:object:root=true
type VolumeList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []Volume `json:"items"`
}

// VolumeSpec is the record. It is the driver's: nothing of it is to be changed by hand.
type VolumeSpec struct {
	// Name is the CSI name, that of the PersistentVolume if the volume was made for a claim.
	Name string `json:"name"`
	// Near is where the volume was wanted when it was made.
	Near *Near `json:"near,omitempty"`
	// UUID names this incarnation; it is the UUID of the namespace that hosts see.
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="a volume keeps its UUID for good"
	UUID UUID `json:"uuid"`
	// SizeBytes is what the volume offers, or is to offer.
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:XValidation:rule="self >= oldSelf",message="a volume never shrinks"
	SizeBytes int64 `json:"sizeBytes"`
	// GrowingFrom is the size in bytes that everything of the volume surely has while it is being grown to SizeBytes.
	// +kubebuilder:validation:Minimum=0
	GrowingFrom int64      `json:"growingFrom,omitempty"`
	Parameters  Parameters `json:"parameters"`
	// Modified: mutable parameters are other than those that the volume was created with.
	Modified bool  `json:"modified,omitempty"`
	Phase    Phase `json:"phase"`
	// +kubebuilder:validation:MaxItems=64
	Replicas []Replica `json:"replicas,omitempty"`
	// Publications are the nodes that may use the volume.
	Publications []Publication `json:"publications,omitempty"`
	// Owner is the node whose node service looks after what runs of the volume; empty is the controller.
	Owner string `json:"owner,omitempty"`
	// Review: the owner is to read this anew and make sure that the targets allow the hosts of these publications and no others.
	Review bool `json:"review,omitempty"`
	// GuestsWanted: a node service other than the owner's has something to do. It follows from the rest.
	GuestsWanted bool `json:"guestsWanted,omitempty"`
	// Assembly is where the volume runs.
	Assembly *Assembly `json:"assembly,omitempty"`
	// InFlight says what becomes of writes that were under way at the raid host before: resent, or lost with a host that would have sent them again.
	InFlight InFlight `json:"inFlight,omitempty"`
	// Standby is an assembly kept ready beside the one that runs.
	Standby *Assembly `json:"standby,omitempty"`
	// MoveTo asks the owner to make that SPDK node the raid host.
	MoveTo string `json:"moveTo,omitempty"`
	// Retired are former assemblies that are not known to be gone from their raid hosts.
	Retired []Assembly `json:"retired,omitempty"`
	// Assemblies counts all that were ever made.
	// +kubebuilder:validation:Minimum=0
	Assemblies int64       `json:"assemblies,omitempty"`
	FileSystem *FileSystem `json:"fileSystem,omitempty"`
	// Content is what the volume was made of.
	Content *Content `json:"content,omitempty"`
	// Snapshot is the snapshot that is being taken.
	Snapshot  *SnapshotWish `json:"snapshot,omitempty"`
	CreatedAt Time          `json:"createdAt"`
}

// Phase is where a volume is in its life.
//
// +kubebuilder:validation:Enum=creating;ready;deleting
type Phase string

// ReplicaState says what is known of a replica's data. Only an in-sync replica is ever a source.
//
// +kubebuilder:validation:Enum=planned;in-sync;suspect;out-of-sync;rebuilding;removing
type ReplicaState string

// AccessMode says what a publication may do with the volume.
//
// +kubebuilder:validation:Enum=single-node-writer;single-node-reader-only;single-node-single-writer;single-node-multi-writer;multi-node-reader-only;multi-node-single-writer;multi-node-multi-writer
type AccessMode string

// Access says from where a volume may be used.
//
// +kubebuilder:validation:Enum=anywhere;zone
type Access string

// Encryption is what a host does to what it writes.
//
// +kubebuilder:validation:Enum=none;luks2
type Encryption string

// FileSystemState says how far the making of a volume's file system is.
//
// +kubebuilder:validation:Enum="";making;made
type FileSystemState string

// WishState is how far the taking of a snapshot is.
//
// +kubebuilder:validation:Enum=wanted;pausing;taken;failed
type WishState string

// InFlight says what becomes of writes that were under way at a raid host when it was left or lost.
//
// +kubebuilder:validation:Enum="";resent;lost
type InFlight string

// Near is where a volume was wanted.
type Near struct {
	Node  string   `json:"node,omitempty"`
	Zones []string `json:"zones,omitempty"`
}

// Parameters are those of the StorageClass, with defaults filled in.
type Parameters struct {
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=8
	Replicas int64  `json:"replicas"`
	Thin     bool   `json:"thin"`
	LvStore  string `json:"lvstore,omitempty"`
	// NodeSelector restricts placement to SPDK nodes that carry these labels.
	NodeSelector map[string]string `json:"nodeSelector,omitempty"`
	FSType       string            `json:"fsType"`
	Budgets      Budgets           `json:"budgets"`
	Standby      bool              `json:"standby"`
	// ReplaceAfter is how long a lost replica may stay away before another takes its place.
	ReplaceAfter metav1.Duration `json:"replaceAfter"`
	Access       Access          `json:"access,omitempty"`
	Encryption   Encryption      `json:"encryption,omitempty"`
	// MkfsOptions are given to mkfs besides the driver's own.
	MkfsOptions []string `json:"mkfsOptions,omitempty"`
	// ReservedBlocksPercent is how much of an ext4 only root may use.
	// +kubebuilder:validation:Minimum=0
	ReservedBlocksPercent int64 `json:"reservedBlocksPercent,omitempty"`
	// TrimInterval is how often what is free in the file system is discarded.
	TrimInterval *metav1.Duration `json:"trimInterval,omitempty"`
	// ReplicaKey names the key that the replicas and the raid hosts authenticate to each other with.
	ReplicaKey string `json:"replicaKey,omitempty"`
	// HostKey names the key that the volume's target and its hosts authenticate to each other with.
	HostKey string `json:"hostKey,omitempty"`
	// Limits bound the hosts' I/O.
	Limits *Limits `json:"limits,omitempty"`
}

// Limits bound what the hosts of a volume may do with it, in each second; none is no limit.
type Limits struct {
	// IOPS is reads and writes together.
	// +kubebuilder:validation:Minimum=0
	IOPS int64 `json:"iops,omitempty"`
	// Bandwidth is bytes read and written together.
	// +kubebuilder:validation:Minimum=0
	Bandwidth int64 `json:"bandwidth,omitempty"`
	// +kubebuilder:validation:Minimum=0
	ReadBandwidth int64 `json:"readBandwidth,omitempty"`
	// +kubebuilder:validation:Minimum=0
	WriteBandwidth int64 `json:"writeBandwidth,omitempty"`
}

// Budgets bound what a failure may cost.
type Budgets struct {
	ReplicaStall metav1.Duration `json:"replicaStall"`
	TargetLoss   metav1.Duration `json:"targetLoss"`
}

// Replica is one copy of the volume: an lvol.
type Replica struct {
	ID      ReplicaID    `json:"id"`
	Node    string       `json:"node"`
	LvStore string       `json:"lvstore"`
	State   ReplicaState `json:"state"`
	// Since is when the state was entered.
	Since Time `json:"since,omitempty"`
	// SyncedAt is when it was last rebuilt.
	SyncedAt Time `json:"syncedAt,omitempty"`
	// CloneOf is the lvol of a snapshot on which the replica lies.
	CloneOf string `json:"cloneOf,omitempty"`
	// Strikes counts the times in a row that the replica was lost soon after a rebuild.
	Strikes int64 `json:"strikes,omitempty"`
}

// Assembly is one running of a volume: a raid1 on one SPDK node over some of its replicas.
type Assembly struct {
	// +kubebuilder:validation:Minimum=1
	Number   int64       `json:"number"`
	RaidHost string      `json:"raidHost"`
	Legs     []ReplicaID `json:"legs,omitempty"`
	// Held: its target is ANA inaccessible.
	Held bool `json:"held,omitempty"`
	// Running: its target has been complete once.
	Running bool `json:"running,omitempty"`
	// Leaving: its guests are to let go of it.
	Leaving bool `json:"leaving,omitempty"`
	// Stopping: it is being taken apart.
	Stopping bool `json:"stopping,omitempty"`
}

// Publication says that a node may use the volume.
type Publication struct {
	Node     string     `json:"node"`
	Mode     AccessMode `json:"mode"`
	ReadOnly bool       `json:"readOnly,omitempty"`
	Block    bool       `json:"block,omitempty"`
	// Staged: the node has the volume attached, or may have.
	Staged bool `json:"staged,omitempty"`
	// Inherits: the volume became this node's, and its node service has not noticed yet.
	Inherits bool `json:"inherits,omitempty"`
	// Path and Standby are the numbers of the assemblies to which a guest is connected, Left is of what it gets no answer any more.
	Path    int64 `json:"path,omitempty"`
	Standby int64 `json:"standby,omitempty"`
	Left    int64 `json:"left,omitempty"`
}

// FileSystem is what the node service has put on the volume.
type FileSystem struct {
	Type  string          `json:"type,omitempty"`
	State FileSystemState `json:"state,omitempty"`
	// SizeBytes is the size of the device that it was made for or last grown to.
	SizeBytes int64 `json:"sizeBytes,omitempty"`
	// LUKS says how far the making of the LUKS2 header is.
	LUKS FileSystemState `json:"luks,omitempty"`
}

// Content is what a volume was made of.
type Content struct {
	Snapshot string `json:"snapshot"`
	Volume   string `json:"volume,omitempty"`
}

// SnapshotWish asks the owner of a volume to take a snapshot of it.
type SnapshotWish struct {
	Snapshot string            `json:"snapshot"`
	UUID     UUID              `json:"uuid"`
	Replicas []SnapshotReplica `json:"replicas,omitempty"`
	// SizeBytes is what the volume and all these replicas have.
	SizeBytes  int64       `json:"sizeBytes"`
	State      WishState   `json:"state"`
	Assembly   int64       `json:"assembly,omitempty"`
	Taken      []ReplicaID `json:"taken,omitempty"`
	TakenAt    Time        `json:"takenAt,omitempty"`
	FileSystem *FileSystem `json:"fileSystem,omitempty"`
	Reason     string      `json:"reason,omitempty"`
	// Group is the group of which the snapshot is a part.
	Group *GroupWish `json:"group,omitempty"`
}

// GroupWish makes a wish one of several, on different volumes, that are to be carried out at one moment.
type GroupWish struct {
	ID      string   `json:"id"`
	Attempt string   `json:"attempt"`
	Volumes []string `json:"volumes"`
	// Ready: the owner waits for the others before it begins the pause.
	Ready bool `json:"ready,omitempty"`
	// Paused: the pause has begun and is drained.
	Paused bool `json:"paused,omitempty"`
}

// VolumeStatus is what is shown of a volume.
type VolumeStatus struct {
	// Size is spec.sizeBytes as a quantity.
	Size string `json:"size,omitempty"`
	// Replicas is how many are good and how many there are to be: 2/3.
	Replicas string `json:"replicas,omitempty"`
	// State sums the volume up in a few words.
	State string `json:"state,omitempty"`
	// RaidHost is the SPDK node where the volume ran when this was written.
	RaidHost string `json:"raidHost,omitempty"`
	// PublishedTo are the nodes that may use the volume, with commas between them.
	PublishedTo string `json:"publishedTo,omitempty"`
	// Rebuild is how far the rebuild of a replica is.
	Rebuild *RebuildStatus `json:"rebuild,omitempty"`
	// Conditions are Healthy, Available and Rebuilding.
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// Types of conditions of a Volume.
const (
	// ConditionHealthy: nothing is wrong with the volume.
	ConditionHealthy = "Healthy"
	// ConditionAvailable: the volume can be used.
	ConditionAvailable = "Available"
	// ConditionRebuilding: a replica is being rebuilt.
	ConditionRebuilding = "Rebuilding"
)

// RebuildStatus is a rebuild under way.
type RebuildStatus struct {
	// Replica is the ID of the replica.
	Replica string `json:"replica"`
	// Percent is how much is copied.
	Percent int32 `json:"percent"`
	// Copied: all is, and the replica counts when that has held.
	Copied bool `json:"copied,omitempty"`
}
