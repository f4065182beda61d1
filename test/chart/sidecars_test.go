package chart

import (
	"slices"
	"strings"
	"testing"
)

// documented are the rights that each sidecar's project asks for, from deploy/kubernetes of its repository: rbac.yaml of external-provisioner
// v6.3.0, external-attacher v4.13.0, external-resizer v2.3.0 and external-health-monitor v0.18.0, csi-snapshotter/rbac-csi-snapshotter.yaml of
// external-snapshotter v8.7.0. A line is "resource.group verb ...".
var documented = map[string][]string{
	"provisioner": {
		"persistentvolumes. get list watch create patch delete",
		"persistentvolumeclaims. get list watch update",
		"storageclasses.storage.k8s.io get list watch",
		"events. list watch create update patch",
		"volumesnapshots.snapshot.storage.k8s.io get list watch update",
		"volumesnapshotcontents.snapshot.storage.k8s.io get list",
		"csinodes.storage.k8s.io get list watch",
		"nodes. get list watch",
		"volumeattachments.storage.k8s.io get list watch",
		leases,
		"csistoragecapacities.storage.k8s.io get list watch create update patch delete",
		"pods. get",
		"replicasets.apps get",
	},
	"attacher": {
		"persistentvolumes. get list watch patch",
		"csinodes.storage.k8s.io get list watch",
		"volumeattachments.storage.k8s.io get list watch patch",
		"volumeattachments/status.storage.k8s.io patch",
		leases,
	},
	"resizer": {
		"persistentvolumes. get list watch patch",
		"persistentvolumeclaims. get list watch",
		"pods. get list watch",
		"persistentvolumeclaims/status. patch",
		"events. list watch create update patch",
		"volumeattributesclasses.storage.k8s.io get list watch",
		leases,
	},
	"snapshotter": {
		"events. list watch create update patch",
		"volumesnapshotclasses.snapshot.storage.k8s.io get list watch",
		"volumesnapshotcontents.snapshot.storage.k8s.io get list watch update patch",
		"volumesnapshotcontents/status.snapshot.storage.k8s.io update patch",
		"volumegroupsnapshotclasses.groupsnapshot.storage.k8s.io get list watch",
		"volumegroupsnapshotcontents.groupsnapshot.storage.k8s.io get list watch update patch",
		"volumegroupsnapshotcontents/status.groupsnapshot.storage.k8s.io update patch",
		leases,
	},
	"health-monitor": {
		"persistentvolumes. get list watch",
		"persistentvolumeclaims. get list watch",
		"nodes. get list watch",
		"pods. get list watch",
		"events. get list watch create patch",
		leases,
	},
}

const leases = "leases.coordination.k8s.io get watch list delete update create"

// withheld is what the chart doesn't grant although it is documented, by resource, with the reason.
var withheld = map[string]string{
	"leases.coordination.k8s.io":                                      "the driver's controller elects for its pod: sidecars without its socket do nothing, and run without --leader-election",
	"volumegroupsnapshotclasses.groupsnapshot.storage.k8s.io":         "the snapshotter runs without its feature gate for groups, whose CRDs few clusters have",
	"volumegroupsnapshotcontents.groupsnapshot.storage.k8s.io":        "as above",
	"volumegroupsnapshotcontents/status.groupsnapshot.storage.k8s.io": "as above",
}

// added is what the chart grants although it isn't documented, with the reason.
var added = map[string]string{
	"provisioner volumeattributesclasses.storage.k8s.io get": "it reads the class that a claim names (external-provisioner pkg/controller/controller.go, VolumeAttributesClasses().Get)",
}

func TestSidecarsHaveTheRightsThatTheirProjectsDocument(t *testing.T) {
	reasons := map[string]bool{}
	for sidecar, lines := range documented {
		t.Run(sidecar, func(t *testing.T) {
			granted := own(t, "controller-"+sidecar)
			var want []string
			for _, line := range lines {
				resource, verbs, _ := strings.Cut(line, " ")
				if withheld[resource] != "" {
					reasons[resource] = true
					continue
				}
				for verb := range strings.FieldsSeq(verbs) {
					want = append(want, resource+" "+verb)
				}
			}
			for _, right := range want {
				if !slices.Contains(granted, right) {
					t.Errorf("%s is documented and not granted", right)
				}
			}
			for _, right := range granted {
				if slices.Contains(want, right) {
					continue
				}
				if added[sidecar+" "+right] == "" {
					t.Errorf("%s is granted and not documented", right)
				}
				reasons[sidecar+" "+right] = true
			}
		})
	}
	for _, exceptions := range []map[string]string{withheld, added} {
		for what := range exceptions {
			if !reasons[what] {
				t.Errorf("%s is an exception from nothing", what)
			}
		}
	}
}

func TestSidecarsDoNotElect(t *testing.T) {
	for _, name := range cases {
		if strings.Contains(mustRender(t, readValues(t, name)), "leader-election") {
			t.Errorf("%s: a sidecar elects; it needs rights for leases of its own", name)
		}
	}
}
