"""The worker pods of a job as they are observed, and which of them count."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from trainwright.api.status import TrainingJobStatus
from trainwright.api.worker import Termination

NEVER_STARTED = ("StartError", "ContainerCannotRun")
"""Reasons of a container that the node's runtime could not start; the message is the runtime's own."""
REPLACED = "PodReplaced"
"""Reason of a failure whose pod still runs: only its deletion ends the pod."""
TERMINATION_SLACK = timedelta(seconds=5)
"""How long past its grace period a terminating pod is waited for. After that its node is assumed to be dead."""
_USUAL_WAITS = ("ContainerCreating", "PodInitializing")
"""Reasons that every pod waits for while it starts; any other reason is reported."""


@dataclass(frozen=True)
class Pod:
    """A worker pod, read.

    Attributes:
        image: The image that its worker runs, or None if the pod does not say.
        group: Name of its gang, the group of pods that is scheduled as a whole, or None.
        phase: Kubernetes' pod phase: Pending, Running, Succeeded, Failed or Unknown. The worker container's end decides.
        outlived: Whether the worker container has ended while another container, a sidecar, still runs.
        deletes_at: When its grace period ends, if its deletion was requested.
        waiting: Why it does not run yet, as (reason, message), or None.
        scheduler: Name of the scheduler that is to place it, or None if the pod does not say.
        limits: The limits of its worker container on cpu and memory, as quantities.
        defaults: What a LimitRange of the namespace has added to that container: `memory limit`, `cpu request`, ...
        warning: The newest warning event about it while it does not start, as (reason, message), or None.
        exit_code: Exit code of the worker container, once it ended.
        reason: Kubernetes' reason for its end: OOMKilled, Error, Evicted, ...
        disrupted: Why the cluster evicts or preempts the pod, if it does.
        silent: Whether its node has stopped responding.
        termination: The worker's own termination message.
        garbled: Whether there is a termination message that cannot be read: it is of another version, or cut off.
        created_at: When it was created.
        started_at: When the worker container began to run, while it runs.
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
    scheduler: str | None = None
    limits: Mapping[str, str] = field(default_factory=dict)
    defaults: frozenset[str] = frozenset()
    waiting: tuple[str, str] | None = None
    warning: tuple[str, str] | None = None
    exit_code: int | None = None
    reason: str | None = None
    message: str = ""
    disrupted: str | None = None
    silent: bool = False
    termination: Termination | None = None
    created_at: datetime | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    outlived: bool = False
    garbled: bool = False

    @property
    def deleting(self) -> bool:
        """Whether its deletion was requested."""
        return self.deletes_at is not None

    @property
    def place(self) -> str:
        """Which worker it is and on which node, for messages."""
        return f"worker {self.index}" + (f" on node {self.node}" if self.node else "")

    @property
    def starting(self) -> bool:
        """Whether its kubelet is starting it. Problems then show up in events only."""
        return self.waiting is not None and self.waiting[0] in _USUAL_WAITS

    @property
    def obstacle(self) -> tuple[str, str] | None:
        """What keeps the pod from running, as (reason, message); None if it starts as usual."""
        return self.warning if self.starting else self.waiting

    @property
    def unseen(self) -> bool:
        """Whether no scheduler has placed it or said why it cannot."""
        return self.phase == "Pending" and self.node is None and self.waiting is None and not self.deleting

    @property
    def ended(self) -> bool:
        """Whether all its containers have ended."""
        return self.phase in ("Succeeded", "Failed") and not self.outlived

    @property
    def live(self) -> bool:
        """Whether the pod holds resources, or may come to hold some unless it is deleted."""
        return not self.deleting and not self.ended

    def is_over(self, now: datetime) -> bool:
        """Return whether the pod's processes have ended, or must have: on a dead node a pod stays Terminating for ever."""
        return self.ended or (self.deletes_at is not None and now >= self.deletes_at + TERMINATION_SLACK)


@dataclass(frozen=True)
class WorkerPods:
    """The pods of a job, divided into those that count and those that were replaced.

    Attributes:
        newest: By worker index, the newest pod that is not older than the status' oldest attempt.
        superseded: All other pods of the job.
    """

    newest: Mapping[int, Pod]
    superseded: tuple[Pod, ...]

    @classmethod
    def of(cls, pods: Iterable[Pod], status: TrainingJobStatus) -> "WorkerPods":
        """Divide a job's pods."""
        newest: dict[int, Pod] = {}
        superseded: list[Pod] = []
        for pod in sorted(pods, key=lambda pod: (pod.index, pod.attempt)):
            if pod.attempt < status.oldest_attempt or _is_given_up(pod, status):
                superseded.append(pod)
                continue
            if pod.index in newest:
                superseded.append(newest[pod.index])
            newest[pod.index] = pod
        return cls(newest, tuple(superseded))

    @property
    def in_order(self) -> list[Pod]:
        """The pods that count, by worker index."""
        return [self.newest[index] for index in sorted(self.newest)]

    @property
    def all(self) -> tuple[Pod, ...]:
        """Every pod."""
        return (*self.newest.values(), *self.superseded)

    @property
    def running(self) -> int:
        """Number of workers whose pod runs or has done its work."""
        return sum(self.runs(index) for index in self.newest)

    def runs(self, index: int) -> bool:
        """Return whether a worker's pod runs or has done its work."""
        pod = self.newest.get(index)
        return pod is not None and pod.phase in ("Running", "Succeeded") and not pod.deleting

    def left(self, now: datetime) -> int:
        """Return how many pods may still have running processes."""
        return sum(not pod.is_over(now) for pod in self.all)

    def terminations(self, now: datetime) -> list[datetime]:
        """Return the moments after which terminating pods are not waited for any longer."""
        leaving = (pod for pod in self.all if not pod.is_over(now))
        return [pod.deletes_at + TERMINATION_SLACK for pod in leaving if pod.deletes_at is not None]


def _is_given_up(pod: Pod, status: TrainingJobStatus) -> bool:
    """Return whether the newest failure says that this pod must be replaced although it runs."""
    failure = status.failure
    if failure is None or failure.reason != REPLACED:
        return False
    return pod.name == failure.pod and pod.attempt < status.attempt
