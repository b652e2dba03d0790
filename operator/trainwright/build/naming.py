"""Names of a job's children. They are deterministic, so that an interrupted reconcile pass finds the objects it has created.

Pod names are readable. The names of other children contain a part of the job's UID, because a job that is deleted and
created again with the same name must not adopt objects that the garbage collector is about to delete.
"""

import hashlib

from trainwright.api.names import API_VERSION, KIND, LABEL_ATTEMPT, LABEL_JOB, LABEL_WORKER, MANAGED_BY

Labels = dict[str, str]


def pod_name(job: str, index: int, attempt: int) -> str:
    """Return the name of the pod that runs worker `index` since `attempt`."""
    return f"{job}-{index}-{attempt}"


def read_pod_name(job: str, name: str) -> tuple[int, int]:
    """Return the worker index and the attempt from a pod's name.

    Raises:
        ValueError: No worker of this job is called so.
    """
    index, attempt = (int(number) for number in name.removeprefix(f"{job}-").split("-"))
    if pod_name(job, index, attempt) != name:
        raise ValueError(f"{name} is not a worker pod of {job}")
    return index, attempt


def companion_name(job: str, uid: str) -> str:
    """Return the name of the job's Service, which is also the prefix of its ConfigMap's and its NetworkPolicy's names."""
    return f"{job}-{uid[:8]}"


def content_name(job: str, uid: str, *content: str) -> str:
    """Return the name of the ConfigMap or the NetworkPolicy with this content.

    These objects are never updated. After an upgrade of the operator, their content may differ: new pods then mount a new
    ConfigMap, and a new NetworkPolicy is added to the old one.
    """
    digest = hashlib.sha256("\0".join(content).encode())
    return f"{companion_name(job, uid)}-{digest.hexdigest()[:8]}"


def worker_hostname(index: int, oldest_attempt: int) -> str:
    """Return the host name of a worker.

    It contains the oldest attempt whose pods are kept, which rises only when all workers restart. So a pod that is stuck
    on a dead node never shares its DNS name with its successor, while whoever replaces a single lost worker still finds
    worker 0 under the name that the others know.
    """
    return f"worker-{index}-{oldest_attempt}"


def rendezvous_host(namespace: str, job: str, uid: str, oldest_attempt: int) -> str:
    """Return the DNS name of worker 0, within the cluster's search domains."""
    return f"{worker_hostname(0, oldest_attempt)}.{companion_name(job, uid)}.{namespace}.svc"


def job_labels(job: str) -> Labels:
    """Return the labels of every child of a job."""
    return {"app.kubernetes.io/managed-by": MANAGED_BY, LABEL_JOB: job}


def worker_labels(job: str, index: int, attempt: int) -> Labels:
    """Return the labels of a worker pod."""
    return {**job_labels(job), LABEL_WORKER: str(index), LABEL_ATTEMPT: str(attempt)}


def owner_reference(job: str, uid: str) -> dict[str, object]:
    """Return the reference through which the garbage collector deletes a child with its job."""
    return {"apiVersion": API_VERSION, "kind": KIND, "name": job, "uid": uid, "controller": True}
