{{/* The name of everything. Short, because pods add a number, Services a word and the controller a hash to it; without dots,
because the name of a pod is also that of its server, and of a host. */}}
{{- define "weft.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride -}}
{{- else -}}
{{- $name := .Release.Name -}}
{{- if not (contains .Chart.Name $name) -}}
{{- $name = printf "%s-%s" $name .Chart.Name -}}
{{- end -}}
{{- $name | replace "." "-" | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "weft.selectorLabels" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
app.kubernetes.io/component: server
{{- end -}}

{{- define "weft.labels" -}}
{{ include "weft.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "weft.image" -}}
{{- $repository := required "image.repository names no image, and none is published yet: build one as packaging/README.md says, push it, and name it" .Values.image.repository -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" $repository .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" $repository (default .Chart.AppVersion .Values.image.tag) -}}
{{- end -}}
{{- end -}}

{{/* Refuses to change the number of servers of a group that exists: new ones could not join it, and to remove some without telling
the others takes its majority away. Only Helm itself sees what is in the cluster, `helm template` does not. */}}
{{- define "weft.refuseOtherReplicas" -}}
{{- $there := dig "spec" "replicas" 0 (lookup "apps/v1" "StatefulSet" .Release.Namespace (include "weft.fullname" .)) | int -}}
{{- if and $there (ne $there (int .Values.replicas)) -}}
{{- fail (printf "replicas is %d, but the group was made with %d servers and cannot grow or shrink yet: set replicas=%d" (int .Values.replicas) $there $there) -}}
{{- end -}}
{{- end -}}
