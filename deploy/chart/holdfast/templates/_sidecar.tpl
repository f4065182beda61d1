{{/*
A sidecar of the controller: dict "root" . "name" "csi-attacher" "image" .Values.images.attacher "args" (list ...) "env" (list ...).
--timeout is line 7 of the timeout policy (spdk/timeouts: Sidecar), longer than any call to the driver takes. There is no probe: a sidecar waits
for its driver before it serves anything, and ends by itself when it loses the driver's socket or its lease.
*/}}
{{- define "holdfast.sidecar" -}}
- name: {{ .name }}
  image: {{ include "holdfast.image" . }}
  imagePullPolicy: {{ .root.Values.images.pullPolicy }}
  args:
    - --csi-address=/csi/csi.sock
    - --timeout=150s
    - --leader-election
    - --leader-election-namespace={{ .root.Release.Namespace }}
    - --v={{ .root.Values.controller.verbosity }}
    {{- range .args }}
    - {{ . }}
    {{- end }}
  {{- with .env }}
  env: {{- toYaml . | nindent 4 }}
  {{- end }}
  resources: {{- toYaml .root.Values.controller.sidecarResources | nindent 4 }}
  securityContext: {{- include "holdfast.unprivileged" . | nindent 4 }}
  volumeMounts:
    - {name: socket, mountPath: /csi}
{{- end }}
