"""The cache of the cluster's state: the newest manifest of each job and its worker pods, and the workers' reports.

Fed by watches (as the port's Sink), by listings and by the answers to our own writes; whatever comes last, the newest
resource version wins. It makes no decisions and calls only its listener.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from trainwright.api.names import KIND, LABEL_JOB
from trainwright.api.status import rfc3339
from trainwright.api.worker import WorkerPhase, WorkerReport
from trainwright.build.naming import read_pod_name
from trainwright.cluster.compact import compact, compact_pod
from trainwright.cluster.port import JobKey, Listing, Manifest
from trainwright.plan.types import Received

_TOMBSTONES = 8192
_KEPT = ("uid", "attempt", "launch", "sequence", "phase", "message")
"""What is kept of a report of a worker other than worker 0."""


@dataclass(frozen=True)
class PodWarning:
    """A warning event about the pod with this UID."""

    uid: str
    reason: str
    message: str


@dataclass
class _Known:
    """What is known of one job."""

    job: Manifest | None = None
    pods: dict[str, Manifest] = field(default_factory=dict)
    received: Received | None = None
    rejection: str | None = None
    warning: PodWarning | None = None
    waiting_reports: dict[int, Received] = field(default_factory=dict)


@dataclass(frozen=True)
class Snapshot:
    """A snapshot of the cached state of one job.

    Attributes:
        job: The manifest of the job.
        pods: The manifests of the worker pods that it owns.
        former_pods: The manifests of pods of an earlier job of the same name.
        received: The newest report of worker 0.
        rejection: Why the cluster refused to create a child when that was last tried.
        warning: What the cluster last warned of when asked about one of the pods.
        waiting_reports: The newest reports of other workers, by index; they say what the worker waits for.
    """

    job: Manifest
    pods: tuple[Manifest, ...]
    received: Received | None
    rejection: str | None
    former_pods: tuple[Manifest, ...] = ()
    warning: PodWarning | None = None
    waiting_reports: Mapping[int, Received] = field(default_factory=dict)


class Store:
    """The cached state of all jobs. Not thread-safe: use it from one event loop.

    Args:
        changed: Called with the key of each job about which something new was learned.
    """

    def __init__(self, changed: Callable[[JobKey], None] | None = None) -> None:
        self._known: dict[JobKey, _Known] = {}
        self._changed = changed or (lambda _: None)
        self._heard_at: dict[str, datetime] = {}
        # A UID never comes back. An old event or listing that arrives after the deletion must not revive its object.
        self._gone: OrderedDict[str, None] = OrderedDict()

    def notify(self, changed: Callable[[JobKey], None]) -> None:
        """Set who is told of changes."""
        self._changed = changed

    def job_changed(self, job: Manifest, *, deleted: bool = False) -> None:
        """Take note of a TrainingJob that was added, changed or deleted."""
        key = JobKey(job["metadata"].get("namespace", ""), job["metadata"]["name"])
        if self.put_job(job, deleted=deleted):
            self._changed(key)

    def pod_changed(self, pod: Manifest, *, deleted: bool = False) -> None:
        """Take note of a worker pod that was added, changed or deleted."""
        key = _job_of(pod)
        if key is not None and self.put_pod(pod, deleted=deleted):
            self._changed(key)

    def put_job(self, job: Manifest, *, deleted: bool = False) -> bool:
        """Keep the job if it is news, and return whether it was; the listener is not told."""
        meta = job["metadata"]
        key, uid = JobKey(meta.get("namespace", ""), meta["name"]), meta["uid"]
        known = self._known.get(key)
        current = known.job if known is not None else None
        if deleted:
            self._bury(uid)
            if known is None or current is None or _uid(current) != uid:
                return False
            self._drop_job(key, known)
            return True
        if uid in self._gone:
            return False
        known = self._known.setdefault(key, _Known())
        if current is not None and _uid(current) != uid:
            if _version(current) > _version(job):
                return False
            self._drop_job(key, known)  # deleted and created again under the same name
            known = self._known.setdefault(key, known)
        elif current is not None and _version(current) >= _version(job):
            return False
        known.job = compact(job)
        # Only we write the status. The watch event often arrives before the response, and each would cost a reconcile pass.
        return current is None or _uid(current) != uid or _asked(current) != _asked(job)

    def put_pod(self, pod: Manifest, *, deleted: bool = False) -> bool:
        """Keep the pod if it is news, and return whether it was; the listener is not told."""
        key, uid = _job_of(pod), _uid(pod)
        if key is None:
            return False
        if deleted:
            self._bury(uid)
            known = self._known.get(key)
            removed = known.pods.pop(uid, None) if known is not None else None
            self._tidy(key)
            return removed is not None
        if uid in self._gone:
            return False
        known = self._known.setdefault(key, _Known())
        current = known.pods.get(uid)
        if current is not None and _version(current) >= _version(pod):
            return False
        known.pods[uid] = kept = compact_pod(pod)
        return current is None or _said(current) != _said(kept)

    def pod_gone(self, key: JobKey, uid: str) -> None:
        """Forget a pod that a deletion did not find any more."""
        self._bury(uid)
        known = self._known.get(key)
        if known is not None:
            known.pods.pop(uid, None)
            self._tidy(key)

    def pod_deleting(self, key: JobKey, uid: str, now: datetime) -> None:
        """Remember that a pod's deletion was asked for, until its own newer manifest says so."""
        known = self._known.get(key)
        pod = known.pods.get(uid) if known is not None else None
        if pod is not None:
            gone_at = now + timedelta(seconds=pod["spec"].get("terminationGracePeriodSeconds", 30))
            pod["metadata"].setdefault("deletionTimestamp", rfc3339(gone_at))

    def width(self, key: JobKey) -> int:
        """Return how many pods are known under the job's name."""
        known = self._known.get(key)
        return len(known.pods) if known is not None else 0

    def has_begun(self, key: JobKey) -> bool:
        """Return whether the job has been started at least once."""
        known = self._known.get(key)
        job = known.job if known is not None else None
        return job is not None and (job.get("status") or {}).get("attempt", 0) > 0

    def pod_names(self, key: JobKey, job_uid: str) -> frozenset[str]:
        """Return the names of the pods that the job owns."""
        known = self._known.get(key)
        pods = known.pods.values() if known is not None else ()
        return frozenset(pod["metadata"]["name"] for pod in pods if owner_uid(pod) == job_uid)

    def report(self, key: JobKey, worker: int, report: WorkerReport, at: datetime) -> bool:
        """Keep a report of a worker if it is its newest, and return whether it was.

        Worker 0 speaks for the job. The others are only heard of what they wait for.
        """
        known = self._known.get(key)
        if known is None or known.job is None or _uid(known.job) != report.uid:
            return False
        if worker != 0:
            if report.phase != WorkerPhase.RENDEZVOUS:
                return False
            # The other fields are not used, and would let one tenant use up shared memory.
            kept = WorkerReport(**{name: getattr(report, name) for name in _KEPT})
            known.waiting_reports[worker] = Received(kept, at)
            self._heard_at[key.namespace] = at
            self._changed(key)
            return True
        if not report.newer_than(None if known.received is None else known.received.report):
            return False
        known.received = Received(report, at)
        self._heard_at[key.namespace] = at
        self._changed(key)
        return True

    def heard_at(self, namespace: str) -> datetime | None:
        """Return when the newest report of any job of this namespace arrived, or None."""
        return self._heard_at.get(namespace)

    def reject(self, key: JobKey, reason: str | None) -> bool:
        """Remember why the cluster refused a child of this job, None once it does not any more; return whether that is news."""
        known = self._known.get(key)
        if known is None or known.rejection == reason:
            return False
        known.rejection = reason
        return True

    def warn(self, key: JobKey, warning: PodWarning | None) -> bool:
        """Remember what the cluster warned of about a pod of this job, and return whether that is news."""
        known = self._known.get(key)
        if known is None or known.warning == warning:
            return False
        known.warning = warning
        return True

    def snapshot(self, key: JobKey) -> Snapshot | None:
        """Return what is known of the job, or None if there is no such job."""
        known = self._known.get(key)
        if known is None or known.job is None:
            return None
        uid = _uid(known.job)
        pods = tuple(pod for pod in known.pods.values() if owner_uid(pod) == uid)
        former_pods = tuple(pod for pod in known.pods.values() if owner_uid(pod) != uid)
        return Snapshot(
            known.job,
            pods,
            known.received,
            known.rejection,
            former_pods,
            known.warning,
            dict(known.waiting_reports),
        )

    def worker_of(self, key: JobKey, job_uid: str, pod_uid: str) -> int | None:
        """Return which worker of the job has the pod with this UID, or None if none has."""
        known = self._known.get(key)
        pod = known.pods.get(pod_uid) if known is not None else None
        if pod is None or owner_uid(pod) != job_uid:
            return None
        try:
            return read_pod_name(key.name, pod["metadata"]["name"])[0]
        except ValueError:
            return None

    def job_uid(self, key: JobKey) -> str | None:
        """Return the UID of the job, or None if there is no such job."""
        known = self._known.get(key)
        return _uid(known.job) if known is not None and known.job is not None else None

    def jobs(self) -> Iterator[Manifest]:
        """Return the manifests of all jobs."""
        return (known.job for known in list(self._known.values()) if known.job is not None)

    def job_keys(self) -> list[JobKey]:
        """Return the keys of all jobs, and of pods whose job is not known."""
        return list(self._known)

    def put_listing(self, jobs: Listing, pods: Listing) -> None:
        """Take over a complete listing of all jobs and of all worker pods."""
        listed = {_uid(item) for item in (*jobs, *pods)}
        for key, known in list(self._known.items()):
            seen = key.namespace not in jobs.left_out
            if seen and known.job is not None and _is_gone(known.job, listed, jobs.version):
                self.job_changed(known.job, deleted=True)
            if key.namespace not in pods.left_out:
                self._drop_pods(key, listed, pods.version)
        for job in jobs:
            self.job_changed(job)
        for pod in pods:
            self.pod_changed(pod)

    def put_pods(self, key: JobKey, pods: Listing) -> None:
        """Take over a complete listing of one job's pods."""
        for pod in pods:
            self.pod_changed(pod)
        self._drop_pods(key, {_uid(pod) for pod in pods}, pods.version)

    def _drop_pods(self, key: JobKey, listed: set[str], version: int) -> None:
        known = self._known.get(key)
        pods = list(known.pods.items()) if known is not None else []
        for uid, pod in pods:
            if _is_gone(pod, listed, version):
                self._bury(uid)
                del self._known[key].pods[uid]
                self._changed(key)
        self._tidy(key)

    def _drop_job(self, key: JobKey, known: _Known) -> None:
        """Forget the job but keep the pods: they may be those of a new job with the same name, seen early."""
        if known.job is not None:
            uid = _uid(known.job)
            self._bury(uid)
            known.pods = {pod_uid: pod for pod_uid, pod in known.pods.items() if owner_uid(pod) != uid}
        known.job = known.received = known.rejection = known.warning = None
        known.waiting_reports = {}
        self._tidy(key)

    def _tidy(self, key: JobKey) -> None:
        known = self._known.get(key)
        if known is not None and known.job is None and not known.pods:
            del self._known[key]

    def _bury(self, uid: str) -> None:
        self._gone[uid] = None
        if len(self._gone) > _TOMBSTONES:
            self._gone.popitem(last=False)


def owner_uid(pod: Manifest) -> str | None:
    """Return the UID of the controller of this pod."""
    owner = _controller(pod)
    return None if owner is None else owner["uid"]


def _controller(pod: Manifest) -> Manifest | None:
    owners = pod["metadata"].get("ownerReferences") or ()
    return next((owner for owner in owners if owner.get("controller")), None)


def _job_of(pod: Manifest) -> JobKey | None:
    """Return the job whose label the pod has, or None if no TrainingJob owns it: anybody may give a pod our label."""
    meta = pod["metadata"]
    name = (meta.get("labels") or {}).get(LABEL_JOB)
    owner = _controller(pod)
    return JobKey(meta.get("namespace", ""), name) if name and owner is not None and owner.get("kind") == KIND else None


def _asked(job: Manifest) -> tuple[Any, Any]:
    """Return what changes when a person edits or deletes the job."""
    return job["metadata"].get("generation"), job["metadata"].get("deletionTimestamp")


def _said(pod: Manifest) -> tuple[Any, ...]:
    """Return what a decision may depend on: kubelets write pods often without changing any of it."""
    meta = pod["metadata"]
    return meta.get("deletionTimestamp"), meta.get("labels"), pod["spec"], pod["status"]


def _uid(manifest: Manifest) -> str:
    uid: str = manifest["metadata"]["uid"]
    return uid


def _is_gone(manifest: Manifest, listed: set[str], version: int) -> bool:
    """Return whether a listing of this version proves the object gone: what is younger than the listing it cannot show."""
    return _uid(manifest) not in listed and _version(manifest) <= version


def _version(manifest: Manifest) -> int:
    """Return the resource version as a number. Since 1.35, Kubernetes guarantees that resource versions are comparable."""
    try:
        return int(manifest["metadata"]["resourceVersion"])
    except (KeyError, ValueError):
        return 0
