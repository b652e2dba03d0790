"""What passes between operator and worker: the config a worker reads, the reports it sends, the way it ends."""

from enum import StrEnum
from typing import Annotated

from pydantic import ConfigDict, Field

from trainwright.api.base import Model
from trainwright.api.exit_codes import FailureClass
from trainwright.api.figures import Measurements, Preflight
from trainwright.api.spec import TrainingJobSpec
from trainwright.api.status import Checkpoint, LaunchSeconds, Results

LARGEST = 2**63 - 1
"""No count is larger: the cluster stores none that is, and would refuse the whole status."""
MOST_HEARTBEATS = 64
"""Ranks whose newest step a report tells, however many there are."""
Count = Annotated[int, Field(ge=0, le=LARGEST)]
Total = Annotated[int, Field(ge=1, le=LARGEST)]


class ReportsEndpoint(Model):
    """Where and how to report."""

    url: str = Field(description="URL to POST reports to, the job's name included.")
    ca_file: str = Field(description="File with the CA certificate that the endpoint's own is checked against.")
    token_file: str = Field(description="File with the bearer token; read anew for every report, since it rotates.")
    interval_seconds: float = Field(2, gt=0, description="Seconds between two reports.")


class WorkerConfig(Model):
    """What every worker of a job reads; the environment says the rest.

    Workers and operator may be of different versions: a job keeps its image while the operator is upgraded, and pods that run
    keep the config that they were created with. Fields that are not known are ignored, but for those of the spec.
    """

    model_config = ConfigDict(extra="ignore")

    namespace: str = Field(description="Namespace of the job.")
    name: str = Field(description="Name of the job.")
    uid: str = Field(description="UID of the job; prefix of its checkpoints.")
    spec: TrainingJobSpec = Field(description="The job.")
    rendezvous_port: int = Field(ge=1, le=65_535, description="Port of the rendezvous store on worker 0.")
    rendezvous_patience_seconds: float = Field(
        30,
        gt=0,
        description="How long those that are there wait for the others before they go on with fewer, in seconds.",
    )
    metrics_port: int | None = Field(
        None, ge=1, le=65_535, description="Port of the first local rank's metrics; None serves none."
    )
    checkpoint_root: str = Field(description="Folder under which this job's own folder <name>-<uid> lies.")
    data_root: str = Field(description="Folder at which relative dataset paths start.")
    reports: ReportsEndpoint | None = Field(None, description="Where to report; None keeps reports in the log.")

    def sized(self, count: int, least: int | None) -> "WorkerConfig":
        """Return the config for another number of workers.

        Args:
            count: Workers of the job.
            least: Fewest workers to train with; None if all are needed.
        """
        workers = self.spec.workers.changed(count=count, min_count=least)
        return self.changed(spec=self.spec.changed(workers=workers))

    @property
    def job_folder(self) -> str:
        """The folder or URI that holds all a job writes: `checkpoints/` and `results/`. Nothing is written outside."""
        root = self.spec.checkpoint.uri or self.checkpoint_root
        return f"{root.rstrip('/')}/{self.name}-{self.uid}"


class ReportPart(Model):
    """A part of a report. The worker may be newer than the operator, which ignores fields it does not know."""

    model_config = ConfigDict(extra="ignore")


class WorkerPhase(StrEnum):
    """What the training processes are doing."""

    RENDEZVOUS = "Rendezvous"
    PREPARING = "Preparing"
    TRAINING = "Training"
    EVALUATING = "Evaluating"
    PREDICTING = "Predicting"
    FINISHED = "Finished"


class RankHeartbeat(ReportPart):
    """The last sign of life of one process."""

    rank: int = Field(ge=0, description="Global rank.")
    step: int = Field(ge=0, description="Newest optimizer step it finished.")
    seconds_ago: float = Field(ge=0, description="Age of that step, in seconds, when the report was made.")


class Absentee(ReportPart):
    """A worker that others wait for."""

    worker: int = Field(ge=0, description="Its index.")
    attempt: int = Field(
        0, ge=0, description="Attempt of the newest pod that ever came to the rendezvous; 0 if none did."
    )


class Waiting(ReportPart):
    """How far the rendezvous of the workers is, as one of them sees it."""

    joined: int = Field(ge=0, description="Workers that are there.")
    wanted: int = Field(ge=1, description="Workers that are waited for, those that are there included.")
    missing: list[Absentee] = Field([], max_length=32, description="Who is not there, the first of them.")
    seconds: float = Field(0, ge=0, description="For how long they have been waited for.")


class Cause(ReportPart):
    """Why processes ended before their work was done: the post-mortem of the one that failed first."""

    exit_code: int = Field(description="Exit code of the worker.")
    category: FailureClass | None = Field(None, description="Class of the failure; None on success.")
    message: str = Field("", max_length=1024, description="What happened, in a sentence.")
    hint: str | None = Field(None, max_length=512, description="What to do about it.")
    worker: int | None = Field(None, ge=0, description="Worker that failed first.")
    rank: int | None = Field(None, ge=0, description="Rank that failed first.")
    exception: str | None = Field(None, max_length=512, description="Python exception with its message.")
    traceback: str | None = Field(None, max_length=2048, description="Last lines of the traceback.")


class WorkerReport(ReportPart, Measurements):
    """What worker 0 reports about the whole job. Every report is complete: a newer one replaces all older ones.

    As long as it waits for others its agent reports, then rank 0. Other workers report only that they wait in vain.
    """

    uid: str = Field(max_length=64, description="UID of the job.")
    attempt: Count = Field(description="Attempt that created the reporting pod.")
    launch: str = Field(max_length=64, description="Identifies this launch of the processes; new after each restart.")
    sequence: Count = Field(
        description="Milliseconds since the epoch on the sender's clock; orders an attempt's reports."
    )
    phase: WorkerPhase = Field(description="What the processes are doing.")
    message: str = Field("", max_length=1024, description="Anything worth saying, for example a checkpoint skipped.")
    absent: list[int] = Field(
        [], max_length=10_000, description="Workers that this launch goes on without (workers.minCount)."
    )
    resumed_from_step: Count | None = Field(None, description="Step of the checkpoint this launch began from.")
    step: Count = Field(0, description="Optimizer steps done.")
    total_steps: Total | None = Field(None, description="Steps of the whole run; None until the data was read.")
    epoch: Count = Field(0, description="Epochs done.")
    total_epochs: Total | None = Field(None, description="Epochs of the whole run.")
    samples: Count = Field(0, description="Samples seen, over all processes.")
    peak_memory_bytes: Count | None = Field(None, description="Most memory that rank 0 has held at once.")
    seconds: LaunchSeconds | None = Field(None, description="Where the time of this launch went so far.")
    preflight: Preflight | None = Field(None, description="What was found out before the first step.")
    checkpoints: list[Checkpoint] = Field([], max_length=100, description="Verified checkpoints, oldest first.")
    heartbeats: list[RankHeartbeat] = Field(
        [], max_length=MOST_HEARTBEATS, description="Newest step of the ranks that have stood still for longest."
    )
    results: Results | None = Field(None, description="What was written at the end.")
    waiting: Waiting | None = Field(None, description="Who is waited for, while there are no processes yet.")
    relaunched: Cause | None = Field(
        None, description="Why the launch before this one ended, if the processes were started again inside their pods."
    )

    def newer_than(self, other: "WorkerReport | None") -> bool:
        """Return whether this report replaces the other: a later attempt, or later within the same."""
        return other is None or (self.attempt, self.sequence) > (other.attempt, other.sequence)


class Termination(Cause):
    """How a worker ended, in at most 4 KiB: the pod's termination message, which survives a silent operator.

    On failure it carries the post-mortem of the process that failed first; on success, worker 0's last report.
    """

    report: WorkerReport | None = Field(None, description="The last report, without heartbeats.")
