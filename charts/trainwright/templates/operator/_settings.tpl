{{/* The operator's settings as environment variables. */}}
{{- define "trainwright.settings" -}}
TRAINWRIGHT_WORKER_IMAGE: {{ include "trainwright.image" (dict "root" . "name" "worker") | quote }}
TRAINWRIGHT_WORKER_PULL_POLICY: {{ .Values.image.worker.pullPolicy | quote }}
TRAINWRIGHT_WATCH_NAMESPACES: {{ .Values.watchNamespaces | toJson | quote }}
TRAINWRIGHT_SERVICE_ACCOUNTS: {{ .Values.serviceAccounts.allowed | toJson | quote }}
TRAINWRIGHT_NETWORK_POLICY: {{ .Values.networkPolicy.jobs.enabled | quote }}
TRAINWRIGHT_METRICS_NAMESPACES: {{ .Values.metrics.namespaces | toJson | quote }}
TRAINWRIGHT_REPORTS_SERVICE: {{ printf "%s-reports" (include "trainwright.fullname" .) | quote }}
TRAINWRIGHT_STATUS_INTERVAL: {{ .Values.statusIntervalSeconds | quote }}
TRAINWRIGHT_REPORT_INTERVAL: {{ .Values.reportIntervalSeconds | quote }}
TRAINWRIGHT_STALE_AFTER: {{ .Values.staleAfterSeconds | quote }}
TRAINWRIGHT_LOG_LEVEL: {{ .Values.log.level | quote }}
TRAINWRIGHT_LOG_FORMAT: {{ .Values.log.format | quote }}
{{- end -}}
