{{/* The name of every object: the release's. */}}
{{- define "workernode.name" -}}
{{- .Release.Name | trunc 52 | trimSuffix "-" -}}
{{- end -}}

{{- define "workernode.selector" -}}
app.kubernetes.io/name: workernode
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "workernode.labels" -}}
{{ include "workernode.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{- define "workernode.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}

{{/* The Secret that the pods read; "" without one. */}}
{{- define "workernode.secret" -}}
{{- if .Values.existingSecret -}}{{ .Values.existingSecret }}{{- else if .Values.secret -}}{{ include "workernode.name" . }}{{- end -}}
{{- end -}}

{{/* The keys of the Secret that are mounted as files, as a JSON array: those of secretFiles, else all that the node can read from files. */}}
{{- define "workernode.secretFiles" -}}
{{- $files := .Values.secretFiles -}}
{{- if kindIs "invalid" $files -}}
  {{- $files = list -}}
  {{- if and .Values.existingSecret (ne (.Values.config.NODE_TYPE | default "remote") "local") -}}
    {{- $files = list "API_KEY" -}}
  {{- end -}}
  {{- range $name := list "API_KEY" "PULSAR_TOKEN" "UPSTREAM_HEADERS" -}}
    {{- if hasKey $.Values.secret $name -}}{{- $files = append $files $name -}}{{- end -}}
  {{- end -}}
{{- end -}}
{{- toJson $files -}}
{{- end -}}

{{- define "workernode.data" -}}
{{- range $name, $value := .Values.config }}
{{ $name }}: {{ $value | toString | quote }}
{{- end }}
STATUS_ADDR: 0.0.0.0:9464
{{- with .Values.aiModelName }}
AIMODEL_NAME: {{ . | quote }}
{{- end }}
{{- end -}}

{{/* tenant/namespace of the model's topic. */}}
{{- define "workernode.namespace" -}}
{{- .Values.config.PULSAR_NAMESPACE | default "public/default" -}}
{{- end -}}

{{/* What every container of the image gets: settings, secrets, and a locked-up process. */}}
{{- define "workernode.environment" -}}
envFrom:
  - configMapRef:
      name: {{ .config }}
{{- with include "workernode.secret" .root }}
  - secretRef:
      name: {{ . }}
{{- end }}
env:
  - name: AIMODEL_NAMESPACE
    valueFrom:
      fieldRef:
        fieldPath: metadata.namespace
{{- range include "workernode.secretFiles" .root | fromJsonArray }}
  # An empty variable counts as not set: the file's text is used.
  - name: {{ . }}
    value: ""
  - name: {{ . }}_FILE
    value: /run/secrets/workernode/{{ . }}
{{- end }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities:
    drop: [ALL]
volumeMounts: {{- include "workernode.tmpMounts" .root | nindent 2 }}
  {{- if include "workernode.secretFiles" .root | fromJsonArray }}
  - name: secrets
    mountPath: /run/secrets/workernode
    readOnly: true
  {{- end }}
{{- end -}}

{{- define "workernode.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{- define "workernode.tmp" -}}
- name: tmp
  emptyDir:
    medium: Memory
    sizeLimit: 64Mi
{{- with .Values.authorities }}
- name: authorities
  configMap:
    name: {{ . }}
{{- end }}
{{- end -}}

{{/* Where the volumes of "workernode.tmp" are. */}}
{{- define "workernode.tmpMounts" -}}
- name: tmp
  mountPath: /tmp
{{- if .Values.authorities }}
- name: authorities
  mountPath: /run/authorities
  readOnly: true
{{- end }}
{{- end -}}
