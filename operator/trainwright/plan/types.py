"""The planner's input and output, `Observed` and `Plan`, as frozen data."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from trainwright.api.job import InvalidJobError
from trainwright.api.spec import TrainingJobSpec
from trainwright.api.status import AppliedClass, TrainingJobStatus
from trainwright.api.training_class import TrainingClassSpec
from trainwright.api.worker import WorkerReport
from trainwright.build import Manifest, Settings
from trainwright.plan.pods import Pod, WorkerPods
from trainwright.plan.urgency import Urgency


@dataclass(frozen=True)
class Job:
    """A TrainingJob, read.

    Attributes:
        created_at: When the API server first stored it.
        spec: The typed spec, or the error that explains why there is none.
        status: The status as last written.
        time_to_live: Seconds after its end until it is deleted; known even if the rest of the spec cannot be read.
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
class Received:
    """A worker's report and the time of its arrival."""

    report: WorkerReport
    at: datetime


@dataclass(frozen=True)
class TrainingClass:
    """A TrainingClass, read.

    Attributes:
        spec: Its typed spec, or what is wrong with it.
        is_default: Whether it is the class of jobs that name none.
    """

    name: str
    spec: TrainingClassSpec | str
    is_default: bool


@dataclass(frozen=True)
class Neighbour:
    """Another job of the same namespace, as far as limits per namespace need it.

    Attributes:
        started: Whether it has ever started. What its class filled in is then recorded.
        active: Whether it runs or is about to: it takes room.
        waiting: Whether it waits to be started or resumed.
        class_name: The class that it names or, once it has started, the recorded one.
        limits: Resource limits of each worker, as its spec says.
        filled: Those that were filled in, once it has started.
    """

    uid: str
    created_at: datetime
    started: bool
    active: bool
    waiting: bool
    class_name: str | None
    workers: int
    limits: Mapping[str, int | str]
    filled: Mapping[str, int | str]


@dataclass(frozen=True)
class QueueEntry:
    """Identifies a job that waits in a queue of Kueue.

    Attributes:
        queue: The LocalQueue.
        group: Name of the pods' group, or None if there is a single pod.
        pod: Name of a pod that waits.
    """

    queue: str
    group: str | None
    pod: str


@dataclass(frozen=True)
class QueuePosition:
    """Where in a queue a job is, counted from 1.

    Attributes:
        position: Its position among the jobs of this queue.
        length: How many wait in this queue.
        overall: Its position among the jobs of all queues that share the quota.
    """

    position: int
    length: int
    overall: int


@dataclass(frozen=True)
class Observed:
    """Everything that a decision may depend on.

    Attributes:
        pods: The worker pods that the job owns, in no particular order.
        received: The newest report of worker 0.
        rejection: Why the cluster refused to create a child at the last try, if it did.
        settings: What the platform decides for all jobs.
        now: The time of this pass, in UTC.
        former_pods: Pods of an earlier job of the same name that still exist.
        waiting_reports: The newest reports of workers other than worker 0, by index; they say what the worker waits for.
        listening_since: Since when reports have been received without a gap; None if they are not received.
        namespace_heard_at: When the newest report of any job of this namespace arrived, if one has.
        operator_gone: Whether the release that the status names as the job's operator is gone.
        groups_served: Whether the cluster serves Kubernetes' own pod groups.
        queue_position: The job's position in its queue, as far as it is known.
        classes: All TrainingClasses, while the decision may depend on them.
        namespace_class: The class that the job's namespace names in its label.
        neighbours: The jobs of the namespace, while the decision may depend on them.
        queue_unknown: Whether its queue is known not to exist.
    """

    job: Job
    pods: tuple[Pod, ...]
    received: Received | None
    rejection: str | None
    settings: Settings
    now: datetime
    former_pods: tuple[Pod, ...] = ()
    waiting_reports: Mapping[int, Received] = field(default_factory=dict)
    listening_since: datetime | None = None
    namespace_heard_at: datetime | None = None
    operator_gone: bool = False
    groups_served: bool = False
    queue_position: QueuePosition | None = None
    classes: tuple[TrainingClass, ...] = ()
    namespace_class: str | None = None
    neighbours: tuple[Neighbour, ...] = ()
    queue_unknown: bool = False


@dataclass(frozen=True)
class Pass:
    """One pass over a job whose spec can be read: what every policy decides from, besides the status so far.

    Attributes:
        observed: What was observed; its job's status is the one that was last written.
        spec: The job's effective spec: the user's, with what the job's class fills in.
        pods: The job's pods, divided into those that count and those that were replaced.
        received: The newest report that counts.
        applied: The job's class and what it filled in, or None.
        full: Why the job has to wait for others of its namespace before it starts or resumes, or None.
    """

    observed: Observed
    spec: TrainingJobSpec
    pods: WorkerPods
    received: Received | None
    applied: AppliedClass | None = None
    full: str | None = None

    @property
    def job(self) -> Job:
        """The observed job."""
        return self.observed.job

    @property
    def now(self) -> datetime:
        """The time of this pass, in UTC."""
        return self.observed.now

    @property
    def report(self) -> WorkerReport | None:
        """The newest report that counts, without the time of its arrival."""
        return None if self.received is None else self.received.report

    @property
    def waiting_reports(self) -> Mapping[int, Received]:
        """The newest reports of workers other than worker 0 that their present pods sent, by index.

        A pod that was replaced waited for a worker 0 that may be gone as well, under another host name.
        """
        present = {index: pod.attempt for index, pod in self.pods.newest.items()}
        received = self.observed.waiting_reports.items()
        return {index: each for index, each in received if each.report.attempt == present.get(index)}


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
        status: The status to write, or None if it is right as it is. To decide a restart is to write its counters and
            nothing else; the next pass sees them and carries the restart out.
        urgency: How soon the status must be written, and what waits for the write.
        delete: Pods to delete.
        create: Children to create, in order. An object that exists already counts as created.
        warnings_of: UID of a pod whose warning events should be read, or None.
        queue_entry: The job whose position in a queue should be looked up, or None.
        delete_job: Whether the job's time to live is over.
        events: Events to emit once the status is written.
        requeue_after: Seconds until the job must be looked at again even if nothing happens, or None.
    """

    status: TrainingJobStatus | None = None
    urgency: Urgency = Urgency.PROGRESS
    delete: tuple[PodDeletion, ...] = ()
    create: tuple[Manifest, ...] = ()
    warnings_of: str | None = None
    queue_entry: QueueEntry | None = None
    delete_job: bool = False
    events: tuple[Event, ...] = ()
    requeue_after: float | None = None
