{{/* Labels that Helm's users expect on each object, besides those of the manifests. */}}
{{- define "datastorage.labels" -}}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "datastorage.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- with .Values.image.digest }}@{{ . }}{{ end }}
{{- end }}

{{/* A value as the text of an environment variable: Helm reads numbers as floats, and prints large ones as 1e+06. */}}
{{- define "datastorage.text" -}}
{{- if and (kindIs "float64" .) (eq (floor .) .) }}{{ int64 . }}{{ else }}{{ . }}{{ end }}
{{- end }}

{{/* The data of the ConfigMap. */}}
{{- define "datastorage.settings" -}}
{{- range $name, $value := .Values.settings }}
{{ $name }}: {{ include "datastorage.text" $value | quote }}
{{- end }}
DATASTORAGE_NAMESPACES: {{ join "," .Values.namespaces | quote }}
@SETTINGS@
{{- end }}

{{/* Subjects of a binding. */}}
{{- define "datastorage.subjects" -}}
{{- range . }}
- kind: {{ .kind }}
  name: {{ .name | quote }}
  {{- if eq .kind "ServiceAccount" }}
  namespace: {{ required (printf "the ServiceAccount %s in readAccess needs its namespace" .name) .namespace | quote }}
  {{- else }}
  apiGroup: rbac.authorization.k8s.io
  {{- end }}
{{- end }}
{{- end }}
