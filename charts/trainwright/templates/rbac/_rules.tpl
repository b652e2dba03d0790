{{/* What the operator does in a namespace whose jobs it runs. Nothing here reads a Secret. */}}
{{- define "trainwright.jobRules" -}}
- apiGroups: [trainwright.dev]
  resources: [trainingjobs]
  # delete: for ttlSecondsAfterFinished.
  verbs: [list, watch, delete]
- apiGroups: [trainwright.dev]
  resources: [trainingjobs/status]
  verbs: [update]
- apiGroups: [""]
  resources: [pods]
  verbs: [list, watch, create, delete]
- apiGroups: [""]
  resources: [configmaps, services]
  verbs: [create]
{{- if .Values.networkPolicy.jobs.enabled }}
- apiGroups: [networking.k8s.io]
  resources: [networkpolicies]
  verbs: [create]
{{- end }}
# All or nothing (spec.scheduling): the groups of Kubernetes itself, of Volcano and of scheduler-plugins; a place in a queue.
- apiGroups: [scheduling.k8s.io, scheduling.volcano.sh, scheduling.x-k8s.io]
  resources: [podgroups]
  verbs: [create]
- apiGroups: [visibility.kueue.x-k8s.io]
  resources: [localqueues/pendingworkloads]
  verbs: [get]
- apiGroups: [""]
  resources: [events]
  # list: why a kubelet does not start a pod is in no other place.
  verbs: [list, create]
{{- end -}}
