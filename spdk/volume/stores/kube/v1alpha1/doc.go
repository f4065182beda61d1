// Package v1alpha1 owns the custom resources of group csi.holdfast.dev: the records of volumes and snapshots, the machines that use volumes,
// and the SPDK nodes. The CRDs in deploy/crds are generated from it ("make generate").
//
// A record is the spec, written by the driver alone. The status is what is shown, written by the controller; nothing is ever decided by it.
//
// +kubebuilder:object:generate=true
// +groupName=csi.holdfast.dev
package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// GroupVersion is the group and version of the resources.
var GroupVersion = schema.GroupVersion{Group: "csi.holdfast.dev", Version: "v1alpha1"}

// RecordFinalizer is on every Volume and Snapshot. The driver takes it off when nothing of the volume is left on an SPDK node, so that neither
// a deletion by hand nor one of the CRD can lose a record that something depends on.
const RecordFinalizer = "csi.holdfast.dev/record"

// Fields by which a list or watch of Volumes is narrowed: to those of one owner, and to those whose guests have something to do ("true").
const (
	OwnerField        = "spec.owner"
	GuestsWantedField = "spec.guestsWanted"
)

// AddToScheme registers the kinds with a scheme.
func AddToScheme(s *runtime.Scheme) error {
	s.AddKnownTypes(GroupVersion, &Volume{}, &VolumeList{}, &Snapshot{}, &SnapshotList{}, &Host{}, &HostList{}, &SPDKNode{}, &SPDKNodeList{})
	metav1.AddToGroupVersion(s, GroupVersion)
	return nil
}

// UUID is a universally unique identifier in its text form.
//
// +kubebuilder:validation:Pattern=`^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`
type UUID string

// Time is a moment, RFC 3339 with up to nanoseconds. Unlike metav1.Time it loses nothing of what is put in.
//
// +kubebuilder:validation:Format=date-time
type Time string

// ReplicaID is 8 hexadecimal digits.
//
// +kubebuilder:validation:Pattern=`^[0-9a-f]{8}$`
type ReplicaID string
