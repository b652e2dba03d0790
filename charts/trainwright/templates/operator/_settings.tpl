{{/* The operator's settings as environment variables. Lists are names separated by commas. */}}
{{- define "trainwright.settings" -}}
TRAINWRIGHT_NAMESPACES: {{ join "," .Values.watchNamespaces | quote }}
TRAINWRIGHT_WORKER_IMAGE: {{ include "trainwright.image" (dict "root" . "name" "worker") | quote }}
TRAINWRIGHT_WORKER_PULL_POLICY: {{ .Values.image.worker.pullPolicy | quote }}
TRAINWRIGHT_SERVICE_ACCOUNTS: {{ join "," .Values.serviceAccounts.allowed | quote }}
TRAINWRIGHT_NETWORK_POLICY: {{ .Values.networkPolicy.jobs.enabled | quote }}
TRAINWRIGHT_METRICS_NAMESPACES: {{ join "," .Values.metrics.namespaces | quote }}
TRAINWRIGHT_REPORTS_SERVICE: {{ printf "%s-reports" (include "trainwright.fullname" .) | quote }}
TRAINWRIGHT_REPORTS_SECRET: trainwright-reports-ca
TRAINWRIGHT_LEASE_NAME: {{ include "trainwright.fullname" . | quote }}
TRAINWRIGHT_STATUS_INTERVAL: {{ .Values.statusIntervalSeconds | quote }}
TRAINWRIGHT_REPORT_INTERVAL: {{ .Values.reportIntervalSeconds | quote }}
TRAINWRIGHT_STALE_AFTER: {{ .Values.staleAfterSeconds | quote }}
TRAINWRIGHT_DRAIN_TIMEOUT: {{ divf .Values.terminationGracePeriodSeconds 2 | quote }}
TRAINWRIGHT_LOG_LEVEL: {{ .Values.log.level | quote }}
TRAINWRIGHT_LOG_FORMAT: {{ .Values.log.format | quote }}
{{- end -}}
