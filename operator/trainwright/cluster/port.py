"""The Cluster port: everything that the control loop needs from a cluster, either Kubernetes or the local one.

Objects are passed as plain dicts with Kubernetes' own field names (`Manifest`). An adapter translates its errors into those
below and does not retry, because the queue does.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from trainwright.build.manifest import Manifest as Manifest  # noqa: PLC0414 - objects cross the port in this shape


class ClusterError(Exception):
    """A request to the cluster failed. A retry may succeed."""


class NotFoundError(ClusterError):
    """The object does not exist, or not with the expected UID."""


class AlreadyExistsError(ClusterError):
    """An object of that name exists."""


class ConflictError(ClusterError):
    """The object has changed since it was read."""


class RejectedError(ClusterError):
    """The cluster refuses the object (quota, admission, schema); `str()` of it is the cluster's own reason."""


@dataclass(frozen=True)
class JobKey:
    """What identifies a job in the queue."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


class Listing(list[Manifest]):
    """All objects of a kind, as they were at one moment.

    Attributes:
        version: The resource version of that moment. An object of which a newer one is known is not gone because it is not
            listed: the listing is older.
        left_out: Namespaces that the cluster does not let us list, and why: nothing is known of what is in them.
    """

    def __init__(self, items: Iterable[Manifest], version: int, left_out: Mapping[str, str] | None = None) -> None:
        super().__init__(items)
        self.version = version
        self.left_out = dict(left_out or {})


@dataclass(frozen=True)
class PodIdentity:
    """The pod that a token was issued to."""

    namespace: str
    name: str
    uid: str


@dataclass(frozen=True)
class PendingWorkload:
    """A workload that waits in a queue of Kueue, with its positions counted from 1.

    Attributes:
        name: What Kueue calls it.
        position: Its position in this queue.
        overall: Its position among all queues that share the quota.
    """

    name: str
    position: int
    overall: int


class Sink(Protocol):
    """What a watching adapter tells of changes. Both calls are quick and never raise."""

    def job_changed(self, job: Manifest, *, deleted: bool = False) -> None:
        """Take note of a TrainingJob that was added, changed or deleted."""

    def pod_changed(self, pod: Manifest, *, deleted: bool = False) -> None:
        """Take note of a worker pod that was added, changed or deleted."""


class Cluster(Protocol):
    """A cluster."""

    async def list_jobs(self) -> Listing:
        """Return every TrainingJob that this operator looks after."""

    async def list_pods(self, key: JobKey | None = None) -> Listing:
        """Return the worker pods (by label) of one job, or of all jobs."""

    async def create(self, manifest: Manifest) -> Manifest:
        """Create any namespaced object and return it as stored.

        Raises:
            AlreadyExistsError: An object of that name exists.
            RejectedError: The cluster refuses it.
        """

    async def delete_pod(self, key: JobKey, name: str, uid: str, grace_seconds: int | None = None) -> None:
        """Ask for the deletion of the pod with this UID; it ends within its grace period.

        Raises:
            NotFoundError: It is gone, or another pod has its name.
            ConflictError: It was not deleted, for another reason.
        """

    async def delete_job(self, key: JobKey, uid: str) -> None:
        """Delete a TrainingJob and, through ownership, all its children.

        Raises:
            NotFoundError: It is gone, or another job has its name.
        """

    async def write_status(self, job: Manifest, status: Manifest) -> Manifest:
        """Replace the status of the job if it is still at the resourceVersion of `job`; return it as stored.

        Raises:
            ConflictError: The job has changed since.
            NotFoundError: The job is gone.
        """

    async def pod_warning(self, namespace: str, uid: str) -> tuple[str, str] | None:
        """Return the newest warning about the pod with this UID as (reason, message), or None if there is none."""

    async def serves(self, api_version: str, resource: str) -> bool:
        """Return whether there is such a resource."""

    async def list_classes(self) -> Sequence[Manifest]:
        """Return every TrainingClass; none where the cluster does not serve them."""

    async def namespace_labels(self, namespace: str) -> Mapping[str, str]:
        """Return the labels of a namespace."""

    async def lease_renewal(self, namespace: str, name: str) -> str | None:
        """Return when a Lease was last renewed, as its text; None if there is no such Lease, or it has never been renewed."""

    async def pending_workloads(self, namespace: str, queue: str) -> list[PendingWorkload]:
        """Return the workloads that wait in a LocalQueue of Kueue, in order.

        Raises:
            NotFoundError: There is no such queue.
            ClusterError: Or another of its kinds; a cluster need not tell.
        """

    async def review_token(self, token: str, audience: str) -> PodIdentity | None:
        """Return the pod that the token was issued to for this audience, or None if it is not valid."""
