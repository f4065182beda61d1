{{/* Rules of the ClusterRoles: the driver's, then the sidecars'. */}}
{{- define "holdfast.rules.controller" -}}
- apiGroups: [csi.holdfast.dev]
  resources: [volumes, snapshots]
  verbs: [get, list, create, update, patch, delete]
- apiGroups: [csi.holdfast.dev]
  resources: [volumes/status, spdknodes/status]
  verbs: [patch]
- apiGroups: [csi.holdfast.dev]
  resources: [hosts]
  verbs: [get]
- apiGroups: [csi.holdfast.dev]
  resources: [spdknodes]
  verbs: [list, create]
- apiGroups: [""]
  resources: [persistentvolumes]
  verbs: [get]
- apiGroups: [""]
  resources: [events]
  verbs: [create, patch]
{{- end }}

{{- define "holdfast.rules.node" -}}
- apiGroups: [csi.holdfast.dev]
  resources: [volumes]
  verbs: [get, list, watch, patch]
- apiGroups: [csi.holdfast.dev]
  resources: [hosts]
  verbs: [get, create, update]
- apiGroups: [csi.holdfast.dev]
  resources: [spdknodes]
  verbs: [list]
{{- end }}

{{- define "holdfast.rules.operator" -}}
- apiGroups: [csi.holdfast.dev]
  resources: [volumes, snapshots]
  verbs: [get, list, patch]
- apiGroups: [csi.holdfast.dev]
  resources: [hosts]
  verbs: [list]
- apiGroups: [csi.holdfast.dev]
  resources: [spdknodes]
  verbs: [get, list, create, update]
- apiGroups: [""]
  resources: [persistentvolumes]
  verbs: [get, list]
- apiGroups: [""]
  resources: [persistentvolumeclaims]
  verbs: [get]
- apiGroups: [""]
  resources: [events]
  verbs: [list]
{{- end }}

{{- define "holdfast.rules.provisioner" -}}
- apiGroups: [""]
  resources: [persistentvolumes]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [""]
  resources: [persistentvolumeclaims]
  verbs: [get, list, watch, update]
- apiGroups: [storage.k8s.io]
  resources: [storageclasses, csinodes, volumeattachments]
  verbs: [get, list, watch]
- apiGroups: [storage.k8s.io]
  resources: [volumeattributesclasses]
  verbs: [get]
- apiGroups: [""]
  resources: [nodes]
  verbs: [get, list, watch]
{{ include "holdfast.rules.events" . }}
{{- if .Values.snapshotter.enabled }}
- apiGroups: [snapshot.storage.k8s.io]
  resources: [volumesnapshots]
  verbs: [get, list, watch, update]
- apiGroups: [snapshot.storage.k8s.io]
  resources: [volumesnapshotcontents]
  verbs: [get, list]
{{- end }}
{{- end }}

{{- define "holdfast.rules.attacher" -}}
- apiGroups: [""]
  resources: [persistentvolumes]
  verbs: [get, list, watch, patch]
- apiGroups: [storage.k8s.io]
  resources: [csinodes]
  verbs: [get, list, watch]
- apiGroups: [storage.k8s.io]
  resources: [volumeattachments]
  verbs: [get, list, watch, patch]
- apiGroups: [storage.k8s.io]
  resources: [volumeattachments/status]
  verbs: [patch]
{{- end }}

{{- define "holdfast.rules.resizer" -}}
- apiGroups: [""]
  resources: [persistentvolumes]
  verbs: [get, list, watch, patch]
- apiGroups: [""]
  resources: [persistentvolumeclaims, pods]
  verbs: [get, list, watch]
- apiGroups: [""]
  resources: [persistentvolumeclaims/status]
  verbs: [patch]
- apiGroups: [storage.k8s.io]
  resources: [volumeattributesclasses]
  verbs: [get, list, watch]
{{ include "holdfast.rules.events" . }}
{{- end }}

{{- define "holdfast.rules.snapshotter" -}}
- apiGroups: [snapshot.storage.k8s.io]
  resources: [volumesnapshotclasses]
  verbs: [get, list, watch]
- apiGroups: [snapshot.storage.k8s.io]
  resources: [volumesnapshotcontents]
  verbs: [get, list, watch, update, patch]
- apiGroups: [snapshot.storage.k8s.io]
  resources: [volumesnapshotcontents/status]
  verbs: [update, patch]
{{ include "holdfast.rules.events" . }}
{{- end }}

{{- define "holdfast.rules.health-monitor" -}}
- apiGroups: [""]
  resources: [persistentvolumes, persistentvolumeclaims, nodes, pods]
  verbs: [get, list, watch]
- apiGroups: [""]
  resources: [events]
  verbs: [get, list, watch, create, patch]
{{- end }}

{{- define "holdfast.rules.events" -}}
- apiGroups: [""]
  resources: [events]
  verbs: [list, watch, create, update, patch]
{{- end }}
