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
{{ include "weft.chartLabels" . }}
{{- end -}}

{{- define "weft.chartLabels" -}}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "weft.injector" -}}
{{ include "weft.fullname" . }}-injector
{{- end -}}

{{/* What belongs to no namespace carries the release's in its name, for another release may have the same name elsewhere. */}}
{{- define "weft.injectorInCluster" -}}
{{ include "weft.fullname" . }}-injector{{ with .Release.Namespace }}-{{ . }}{{ end }}
{{- end -}}

{{- define "weft.serversInCluster" -}}
{{ include "weft.fullname" . }}-servers{{ with .Release.Namespace }}-{{ . }}{{ end }}
{{- end -}}

{{/* The Secret that holds the first management token. */}}
{{- define "weft.bootstrapToken" -}}
{{ include "weft.fullname" . }}-bootstrap-token
{{- end -}}

{{/* Says whether the servers' pods ask the cluster anything. */}}
{{- define "weft.serversAsk" -}}
{{- if or .Values.bootstrap.enabled .Values.podLogins.enabled -}}true{{- end -}}
{{- end -}}

{{- define "weft.injectorSelectorLabels" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
app.kubernetes.io/component: injector
{{- end -}}

{{- define "weft.injectorLabels" -}}
{{ include "weft.injectorSelectorLabels" . }}
{{ include "weft.chartLabels" . }}
{{- end -}}

{{- define "weft.connector" -}}
{{ include "weft.fullname" . }}-connector
{{- end -}}

{{- define "weft.connectorInCluster" -}}
{{ include "weft.fullname" . }}-connector{{ with .Release.Namespace }}-{{ . }}{{ end }}
{{- end -}}

{{- define "weft.connectorSelectorLabels" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
app.kubernetes.io/component: connector
{{- end -}}

{{- define "weft.connectorLabels" -}}
{{ include "weft.connectorSelectorLabels" . }}
{{ include "weft.chartLabels" . }}
{{- end -}}

{{/* The Secret that the chart makes for the connector's token, and bootstrap fills in; nothing where somebody else keeps it. */}}
{{- define "weft.ownConnectorToken" -}}
{{- $connector := .Values.connector -}}
{{- if and $connector.enabled (not $connector.tokenSecret) .Values.bootstrap.enabled (not .Values.externalServers.enabled) -}}
{{ include "weft.connector" . }}-token
{{- end -}}
{{- end -}}

{{/* The Secret that holds the connector's token. */}}
{{- define "weft.connectorToken" -}}
{{- $own := include "weft.ownConnectorToken" . -}}
{{- required "connector.enabled is true, but nothing makes its token here: name the Secret that holds one as `token` by connector.tokenSecret, as docs/kubernetes-connector.md says, or set connector.enabled=false" (default $own .Values.connector.tokenSecret) -}}
{{- end -}}

{{/* Where the servers' API is. */}}
{{- define "weft.apiAddresses" -}}
{{- if .Values.externalServers.enabled -}}
{{- $api := .Values.externalServers.api -}}
{{- if not $api -}}
{{- fail "connector.enabled is true, but externalServers.api names no server's API: give it as https://HOST:8501, or set connector.enabled=false" -}}
{{- end -}}
{{- toJson $api -}}
{{- else -}}
{{- list (printf "https://%s:8501" (include "weft.apiName" .)) | toJson -}}
{{- end -}}
{{- end -}}

{{/* The name under which the servers' API is asked in the cluster. */}}
{{- define "weft.apiName" -}}
{{ include "weft.fullname" . }}-api.{{ .Release.Namespace }}.svc
{{- end -}}

{{/* The ConfigMap that holds the roots by which the servers are known. */}}
{{- define "weft.roots" -}}
{{ include "weft.fullname" . }}-roots
{{- end -}}

{{/* Where agents begin. */}}
{{- define "weft.agentPorts" -}}
{{- if .Values.externalServers.enabled -}}
{{- $agents := .Values.externalServers.agents -}}
{{- if not $agents -}}
{{- fail "externalServers.enabled is true, but externalServers.agents names no server: give their addresses for agents, as host:port" -}}
{{- end -}}
{{- toJson $agents -}}
{{- else -}}
{{- list (printf "%s-agents.%s.svc:8300" (include "weft.fullname" .) .Release.Namespace) | toJson -}}
{{- end -}}
{{- end -}}

{{/* What the injector puts into pods, as its file has it. */}}
{{- define "weft.injectorSettings" -}}
{{- $injector := .Values.injector -}}
{{- $sidecar := $injector.sidecar -}}
{{- if eq $sidecar "auto" -}}
{{- $sidecar = ternary "native" "plain" (semverCompare ">=1.29-0" .Capabilities.KubeVersion.Version) -}}
{{- end -}}
{{- $settings := dict
  "image" (include "weft.image" .)
  "image_pull_policy" .Values.image.pullPolicy
  "servers" (include "weft.agentPorts" . | fromJsonArray)
  "auth_method" $injector.authMethod
  "sidecar" $sidecar
  "agent_cpu_request" $injector.agent.cpuRequest
  "agent_memory_request" $injector.agent.memoryRequest
  "agent_memory_limit" $injector.agent.memoryLimit
  "agent_log" $injector.agent.log
  "agent_access_log" (toString $injector.agent.accessLog) -}}
{{- with $injector.audience -}}
{{- $_ := set $settings "audience" . -}}
{{- else -}}
{{- if and $.Values.bootstrap.enabled (not $.Values.podLogins.enabled) -}}
{{- fail "injector.audience is empty, and podLogins.enabled=false, so that nothing here lets pods log in: set injector.enabled=false, or say which audience the auth method asks for" -}}
{{- end -}}
{{- if $.Values.externalServers.enabled -}}
{{- fail "injector.audience is empty: servers elsewhere tell nobody here whom agents' tokens are for; `weft acl auth-method read` shows it" -}}
{{- end -}}
{{- end -}}
{{- with .Values.clusterName -}}
{{- $_ := set $settings "cluster_name" . -}}
{{- end -}}
{{- with $injector.redirectImage -}}
{{- $_ := set $settings "redirect_image" . -}}
{{- $dns := $injector.clusterDns -}}
{{- if not $dns -}}
{{- $found := dig "spec" "clusterIP" "" (lookup "v1" "Service" "kube-system" "kube-dns") -}}
{{- if $found -}}
{{- $dns = list (printf (ternary "[%s]:53" "%s:53" (contains ":" $found)) $found) -}}
{{- end -}}
{{- end -}}
{{- with $dns -}}
{{- $_ := set $settings "cluster_dns" . -}}
{{- end -}}
{{- end -}}
{{- with $injector.rootFingerprints -}}
{{- $_ := set $settings "root_fingerprints" . -}}
{{- end -}}
{{- toPrettyJson $settings -}}
{{- end -}}

{{/* Every pod of the chart keeps to the restricted Pod Security Standard. */}}
{{- define "weft.podSecurityContext" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{- define "weft.containerSecurityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop:
    - ALL
{{- end -}}

{{- define "weft.pullSecrets" -}}
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . | quote }}
  {{- end }}
{{- end }}
{{- end -}}

{{/* Where every pod of the chart may run, and what may be ended for it. */}}
{{- define "weft.scheduling" -}}
{{- with .Values.priorityClassName }}
priorityClassName: {{ . | quote }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* DNS, and the ports that the cluster's API may be at: its address cannot be named before it is known. */}}
{{- define "weft.egressToCluster" -}}
- ports:
    {{- range .Values.networkPolicy.apiPorts }}
    - port: {{ . }}
      protocol: TCP
    {{- end }}
    - port: {{ .Values.networkPolicy.dnsPort }}
      protocol: UDP
    - port: {{ .Values.networkPolicy.dnsPort }}
      protocol: TCP
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
