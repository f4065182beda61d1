package kube

import (
	rbacv1 "k8s.io/api/rbac/v1"

	"github.com/holdfast-csi/holdfast/spdk/volume/stores/kube/v1alpha1"
)

// Permissions are what a process needs of the API server, and nothing beyond: Cluster are rules of a ClusterRole, Namespace those of a Role in
// the namespace of the lease. docs/kubernetes.md says what each is for.
type Permissions struct{ Cluster, Namespace []rbacv1.PolicyRule }

func rule(group, resource string, verbs ...string) rbacv1.PolicyRule {
	return rbacv1.PolicyRule{APIGroups: []string{group}, Resources: []string{resource}, Verbs: verbs}
}

func own(resource string, verbs ...string) rbacv1.PolicyRule {
	return rule(v1alpha1.GroupVersion.Group, resource, verbs...)
}

// ControllerPermissions are those of "holdfast controller --store kube".
func ControllerPermissions() Permissions {
	return Permissions{
		Cluster: []rbacv1.PolicyRule{
			own("volumes", "get", "list", "create", "update", "patch", "delete"),
			own("volumes/status", "patch"),
			own("snapshots", "get", "list", "create", "update", "patch", "delete"),
			own("hosts", "get"),
			own("spdknodes", "list", "create"),
			own("spdknodes/status", "patch"),
			rule("", "persistentvolumes", "get"),
			rule("", "events", "create", "patch"),
		},
		Namespace: []rbacv1.PolicyRule{rule("coordination.k8s.io", "leases", "get", "create", "update")},
	}
}

// NodePermissions are those of "holdfast node --store kube".
func NodePermissions() Permissions {
	return Permissions{Cluster: []rbacv1.PolicyRule{
		own("volumes", "get", "list", "watch", "patch"),
		own("hosts", "get", "create", "update"),
		own("spdknodes", "list"),
	}}
}

// OperatorPermissions are those of a person who uses kubectl holdfast, or the operator's commands of holdfast with --store kube. Namespace is the
// driver's: who may exec into its pods there has the rights of the controller.
func OperatorPermissions() Permissions {
	return Permissions{
		Cluster: []rbacv1.PolicyRule{
			own("volumes", "get", "list", "patch"),
			own("snapshots", "get", "list", "patch"),
			own("hosts", "list"),
			own("spdknodes", "get", "list", "create", "update"),
			rule("", "persistentvolumes", "get", "list"),
			rule("", "persistentvolumeclaims", "get"),
			rule("", "events", "list"),
		},
		Namespace: []rbacv1.PolicyRule{
			rule("coordination.k8s.io", "leases", "get"),
			rule("", "pods", "get", "list"),
			rule("", "pods/log", "get"),
			rule("", "pods/exec", "create", "get"), // kubectl asks for a websocket first, with a GET
		},
	}
}
