{{/* The driver's name towards Kubernetes (driver/identity.go). */}}
{{- define "holdfast.driver" -}}csi.holdfast.dev{{- end }}

{{/* What every object's name begins with. */}}
{{- define "holdfast.fullname" -}}
{{- if contains "holdfast" .Release.Name -}}{{ .Release.Name | trunc 40 | trimSuffix "-" }}{{- else -}}{{ printf "%s-holdfast" .Release.Name | trunc 40 | trimSuffix "-" }}{{- end -}}
{{- end }}

{{- define "holdfast.controller" -}}{{ include "holdfast.fullname" . }}-controller{{- end }}
{{- define "holdfast.node" -}}{{ include "holdfast.fullname" . }}-node{{- end }}

{{/* Labels of all objects. */}}
{{- define "holdfast.labels" -}}
app.kubernetes.io/name: holdfast
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{/* Labels by which the pods of a component are found: dict "root" . "component" "controller". They never change. */}}
{{- define "holdfast.selector" -}}
app.kubernetes.io/name: holdfast
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{/* An image's name: dict "root" . "image" .Values.images.holdfast. */}}
{{- define "holdfast.image" -}}
{{- with .root.Values.images.registry }}{{ trimSuffix "/" . }}/{{ end -}}
{{ .image.repository }}:{{ .image.tag | default .root.Chart.AppVersion }}{{ with .image.digest }}@{{ . }}{{ end }}
{{- end }}

{{- define "holdfast.configMap" -}}
{{ .Values.config.existingConfigMap | default (printf "%s-config" (include "holdfast.fullname" .)) }}
{{- end }}

{{/* JSON list of the hosts of the gateways that the configuration names. */}}
{{- define "holdfast.gatewayHosts" -}}
{{- $hosts := list }}
{{- range .Values.config.nodes }}{{ $hosts = append $hosts (regexReplaceAll "^tls://\\[?([^\\]]+?)\\]?:[0-9]+$" .rpc "${1}") }}{{ end }}
{{- concat $hosts .Values.tls.certManager.gatewayHosts | uniq | toJson }}
{{- end }}

{{/* JSON list of the ports of the gateways that the configuration names, 9009 where it names none. */}}
{{- define "holdfast.gatewayPorts" -}}
{{- $ports := list }}
{{- range .Values.config.nodes }}{{ $ports = append $ports (regexFind "[0-9]+$" .rpc | int) }}{{ end }}
{{- $ports | default (list 9009) | uniq | toJson }}
{{- end }}

{{/* What no container but the one that mounts may do. */}}
{{- define "holdfast.unprivileged" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{- define "holdfast.seLinux" -}}
{{- with .Values.node.seLinuxType }}
seLinuxOptions: {type: {{ . }}}
{{- end }}
{{- end }}
