package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// Snapshot is the record of a snapshot. Its name is the CSI snapshot ID.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:scope=Cluster,shortName=hfsnap,categories=holdfast
// +kubebuilder:printcolumn:name="Snapshot",type=string,JSONPath=`.spec.name`
// +kubebuilder:printcolumn:name="Source",type=string,JSONPath=`.spec.source`
// +kubebuilder:printcolumn:name="Bytes",type=integer,JSONPath=`.spec.sizeBytes`
// +kubebuilder:printcolumn:name="Phase",type=string,JSONPath=`.spec.phase`
// +kubebuilder:printcolumn:name="Taken",type=date,JSONPath=`.spec.takenAt`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type Snapshot struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec SnapshotSpec `json:"spec"`
}

// SnapshotList is a list of Snapshots.
//
// +kubebuilder:object:root=true
type SnapshotList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []Snapshot `json:"items"`
}

// SnapshotSpec is the record. It is the driver's: nothing of it is to be changed by hand.
type SnapshotSpec struct {
	// Name is the CSI name; empty for one that only a clone needs.
	Name string `json:"name,omitempty"`
	// UUID names this incarnation, and with it its lvols.
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="a snapshot keeps its UUID for good"
	UUID UUID `json:"uuid"`
	// Source is the ID of the volume.
	Source     string     `json:"source"`
	Encryption Encryption `json:"encryption,omitempty"`
	// +kubebuilder:validation:Minimum=1
	SizeBytes int64         `json:"sizeBytes"`
	Phase     SnapshotPhase `json:"phase"`
	// For is the ID of the volume that is being cloned from the source by this snapshot.
	For        string            `json:"for,omitempty"`
	Replicas   []SnapshotReplica `json:"replicas,omitempty"`
	FileSystem *FileSystem       `json:"fileSystem,omitempty"`
	// TakenAt is the snapshot's moment.
	TakenAt   Time `json:"takenAt,omitempty"`
	CreatedAt Time `json:"createdAt"`
}

// SnapshotPhase is where a snapshot is in its life.
//
// +kubebuilder:validation:Enum=taking;ready;deleting
type SnapshotPhase string

// SnapshotReplicaState says what is known of one lvol of a snapshot.
//
// +kubebuilder:validation:Enum=planned;taken;removing
type SnapshotReplicaState string

// SnapshotReplica is one lvol of a snapshot.
type SnapshotReplica struct {
	ID ReplicaID `json:"id"`
	// Replica is the ID of the volume's replica.
	Replica ReplicaID            `json:"replica"`
	Node    string               `json:"node"`
	LvStore string               `json:"lvstore"`
	State   SnapshotReplicaState `json:"state"`
	// Unsure: SPDK may still be about to make it.
	Unsure bool `json:"unsure,omitempty"`
	// Bytes is what it holds of its lvstore.
	Bytes int64 `json:"bytes"`
}
