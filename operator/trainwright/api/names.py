"""Names that more than one part of the system must agree on: the API group, labels, mount points, ports."""

from typing import Final

GROUP: Final = "trainwright.dev"
VERSION: Final = "v1alpha1"
API_VERSION: Final = f"{GROUP}/{VERSION}"
KIND: Final = "TrainingJob"
PLURAL: Final = "trainingjobs"
SINGULAR: Final = "trainingjob"
SHORT_NAME: Final = "tj"
CLASS_KIND: Final = "TrainingClass"
CLASS_PLURAL: Final = "trainingclasses"
CLASS_LABEL: Final = f"{GROUP}/class"
"""On a namespace: the name of the class of its jobs that name none."""

LABEL_JOB: Final = f"{GROUP}/job-name"
"""On every child: the name of the TrainingJob. It selects a job's objects; the owner UID decides ownership."""
LABEL_WORKER: Final = f"{GROUP}/worker-index"
"""On worker pods: the index of the worker, 0 up to workers.count - 1."""
LABEL_ATTEMPT: Final = f"{GROUP}/attempt"
"""On worker pods: the attempt that created the pod, counted from 1."""
LABEL_GROUP: Final = f"{GROUP}/pod-group"
"""On worker pods of a gang: the name of their PodGroup."""
ANNOTATION_LIMIT_RANGER: Final = "kubernetes.io/limit-ranger"
"""Kubernetes' own, on pods to which a LimitRange of the namespace has added requests or limits; it says which."""

MANAGED_BY: Final = "trainwright"

WORKER_CONTAINER: Final = "worker"
CONFIG_MOUNT: Final = "/etc/trainwright"
CONFIG_FILE: Final = "worker.json"
CA_FILE: Final = "reports-ca.crt"
TOKEN_MOUNT: Final = "/var/run/secrets/trainwright"  # noqa: S105 - a mount point, not a secret
TOKEN_FILE: Final = "token"  # noqa: S105 - a file name
CHECKPOINT_MOUNT: Final = "/checkpoints"
DATA_MOUNT: Final = "/data"
CODE_MOUNT: Final = "/opt/trainwright/code"
CODE_VOLUME: Final = "own-code"
"""The volume of the ConfigMap in `spec.code`."""
WEIGHTS_FILE: Final = "weights.safetensors"
"""In the results folder of a job: the weights of its model."""
SUMMARY_FILE: Final = "results.json"
"""The file beside the weights with the spec, the facts about the data and the measurements."""

RENDEZVOUS_PORT: Final = 29400
METRICS_PORT: Final = 9400
"""Rank r of a worker serves Prometheus metrics on METRICS_PORT + its local rank."""
REPORTS_PORT: Final = 8443

ENV_CONFIG: Final = "TRAINWRIGHT_CONFIG"
"""The path of the WorkerConfig file."""
ENV_WORKER_INDEX: Final = "TRAINWRIGHT_WORKER_INDEX"
ENV_WORKERS: Final = "TRAINWRIGHT_WORKERS"
"""How many workers the job has; the config may be older than the newest change of workers.count."""
ENV_MIN_WORKERS: Final = "TRAINWRIGHT_MIN_WORKERS"
"""The fewest workers to train with; not set if all are needed."""
ENV_ATTEMPT: Final = "TRAINWRIGHT_ATTEMPT"
ENV_RENDEZVOUS_HOST: Final = "TRAINWRIGHT_RENDEZVOUS_HOST"
"""The host name under which the other workers reach worker 0."""
ENV_SHARING_PROCESSES: Final = "TRAINWRIGHT_SHARING_PROCESSES"
"""Number of training processes that share the cores of this machine, if several workers run on it."""
ENV_POD_NAME: Final = "TRAINWRIGHT_POD_NAME"
ENV_TERMINATION_LOG: Final = "TRAINWRIGHT_TERMINATION_LOG"
"""The path to write the Termination message to; Kubernetes copies it into the pod's status."""
TERMINATION_MESSAGE_BYTES: Final = 4096
"""Bytes of a termination message that Kubernetes keeps."""


def report_audience(namespace: str, name: str, uid: str) -> str:
    """Return the audience of the token with which a job's workers report: valid for this job and no other."""
    return f"{GROUP}/{namespace}/{name}/{uid}"
