"""What decisions are made from, and what they amount to: `Observed` in, `Plan` out. Frozen data, nothing else."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from trainwright.api.job import InvalidJobError
from trainwright.api.spec import TrainingJobSpec
from trainwright.api.status import TrainingJobStatus
from trainwright.api.worker import Termination, WorkerReport
from trainwright.build.settings import Settings
from trainwright.plan.weight import Weight

Manifest = dict[str, Any]

_USUAL_WAITS = ("ContainerCreating", "PodInitializing")
"""What every pod waits for on its way; anything else is worth a reason of its own."""

NEVER_STARTED = ("StartError", "ContainerCannotRun")
"""What the end of a container is called that its node's runtime could not start; the message is the runtime's own."""

__all__ = ["Event", "Job", "Manifest", "Observed", "Place", "Plan", "Pod", "PodDeletion", "Settings", "Ticket"]


@dataclass(frozen=True)
class Job:
    """A TrainingJob, read.

    Attributes:
        created_at: When the API server first stored it.
        spec: The typed spec, or the error that explains why there is none.
        status: The status as last written.
        time_to_live: Seconds after its end until it is deleted, known also where the rest of the spec cannot be read.
    """

    namespace: str
    name: str
    uid: str
    generation: int
    created_at: datetime
    deleting: bool
    spec: TrainingJobSpec | InvalidJobError
    status: TrainingJobStatus
    time_to_live: int | None = None


@dataclass(frozen=True)
class Pod:
    """A worker pod, read.

    Attributes:
        image: The image that its worker runs, or None if the pod does not say.
        group: Name of the group that it is placed with all together or not at all, or None.
        phase: Kubernetes' pod phase: Pending, Running, Succeeded, Failed or Unknown. Its worker's end decides.
        outlived: Whether its worker has ended and another container, a sidecar, runs on.
        deletes_at: When its grace period ends, if its deletion was asked for.
        waiting: Why it does not run yet, as (reason, message), or None.
        warning: What the cluster last warned of while it does not start, as (reason, message), or None.
        exit_code: Exit code of the worker container, once it ended.
        reason: What Kubernetes calls its end: OOMKilled, Error, Evicted, ...
        disrupted: Why the cluster evicts or preempts the pod, if it does.
        silent: Whether its node does not answer any more.
        termination: What the worker itself said at its end.
        garbled: Whether it said something there that cannot be read: that of another version, or cut off.
        started_at: When the worker's container began to run, while it does.
    """

    name: str
    uid: str
    index: int
    attempt: int
    phase: str
    image: str | None = None
    group: str | None = None
    deletes_at: datetime | None = None
    node: str | None = None
    waiting: tuple[str, str] | None = None
    warning: tuple[str, str] | None = None
    exit_code: int | None = None
    reason: str | None = None
    message: str = ""
    disrupted: str | None = None
    silent: bool = False
    termination: Termination | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    outlived: bool = False
    garbled: bool = False

    @property
    def deleting(self) -> bool:
        """Whether its deletion was asked for."""
        return self.deletes_at is not None

    @property
    def place(self) -> str:
        """Which worker it is, and where, in words."""
        return f"worker {self.index}" + (f" on node {self.node}" if self.node else "")

    @property
    def starting(self) -> bool:
        """Whether its kubelet is at work on it, and says no more about that than in events."""
        return self.waiting is not None and self.waiting[0] in _USUAL_WAITS

    @property
    def obstacle(self) -> tuple[str, str] | None:
        """What keeps the pod from running, as (reason, message); None if it is on its usual way."""
        return self.warning if self.starting else self.waiting

    @property
    def ended(self) -> bool:
        """Whether its containers have ended."""
        return self.phase in ("Succeeded", "Failed") and not self.outlived

    @property
    def live(self) -> bool:
        """Whether the pod holds resources or may come to, if nobody deletes it."""
        return not self.deleting and not self.ended


@dataclass(frozen=True)
class Ticket:
    """What names a job that waits in a queue of Kueue.

    Attributes:
        queue: The LocalQueue.
        group: Name of the pods' group, or None if there is a single pod.
        pod: Name of a pod that waits.
    """

    queue: str
    group: str | None
    pod: str


@dataclass(frozen=True)
class Place:
    """Where in a queue a job is, counted from 1.

    Attributes:
        place: Its place among the jobs of this queue.
        length: How many wait in this queue.
        overall: Its place among the jobs of all queues that share the quota.
    """

    place: int
    length: int
    overall: int


@dataclass(frozen=True)
class Observed:
    """Everything a decision may depend on.

    Attributes:
        pods: The worker pods that the job owns, in no particular order.
        report: The newest report of the job's workers.
        report_at: When it arrived.
        rejection: Why the cluster refused to create a child when that was last tried, if it did.
        settings: What the platform decides for all jobs.
        now: The time of this pass, in UTC.
        strangers: Pods of a former job of the same name that are not gone yet.
        words: What workers other than worker 0 said last of what they wait for, and when.
        listening_since: Since when reports are heard without a gap; None if they are not.
        groups_served: Whether the cluster serves Kubernetes' own groups of pods.
        place: The job's place in its queue, as far as it is known.
    """

    job: Job
    pods: tuple[Pod, ...]
    report: WorkerReport | None
    report_at: datetime | None
    rejection: str | None
    settings: Settings
    now: datetime
    strangers: tuple[Pod, ...] = ()
    words: Mapping[int, tuple[WorkerReport, datetime]] = field(default_factory=dict)
    listening_since: datetime | None = None
    groups_served: bool = False
    place: Place | None = None


@dataclass(frozen=True)
class PodDeletion:
    """A pod to delete; the UID makes sure that it is this one."""

    name: str
    uid: str


@dataclass(frozen=True)
class Event:
    """A Kubernetes Event on the job."""

    reason: str
    message: str
    warning: bool = False


@dataclass(frozen=True)
class Plan:
    """What to do now.

    Attributes:
        status: The status to write, or None if it is right as it is. A restart is decided by writing its counters alone;
            the pass that follows sees them and carries it out.
        weight: How long the status may wait for its write, and what waits for it.
        delete: Pods to delete.
        create: Children to create, in order. An object that exists already counts as created.
        inquire: UID of a pod about which the cluster should be asked for warnings, or None.
        ticket: What to ask a queue for the place of, or None.
        delete_job: Whether the job's time to live is over.
        events: Events to emit once the status is written.
        requeue_after: Seconds until the job must be looked at again even if nothing happens, or None.
    """

    status: TrainingJobStatus | None = None
    weight: Weight = Weight.PROGRESS
    delete: tuple[PodDeletion, ...] = ()
    create: tuple[Manifest, ...] = ()
    inquire: str | None = None
    ticket: Ticket | None = None
    delete_job: bool = False
    events: tuple[Event, ...] = ()
    requeue_after: float | None = None
