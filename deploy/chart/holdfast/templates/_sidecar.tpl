{{/*
A sidecar of the controller: dict "root" . "name" "csi-attacher" "image" .Values.images.attacher "args" (list ...) "env" (list ...).
--timeout is line 7 of the timeout policy (spdk/timeouts: Sidecar), longer than any call to the driver takes. There is neither election nor probe: a
sidecar waits for its driver's socket, which only the controller that holds the lease opens, and ends by itself when it loses it.
*/}}
{{- define "holdfast.sidecar" -}}
- name: {{ .name }}
  image: {{ include "holdfast.image" . }}
  imagePullPolicy: {{ .root.Values.images.pullPolicy }}
  args:
    - --csi-address=/csi/csi.sock
    - --timeout=150s
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
