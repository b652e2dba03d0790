"""Messages between operator and worker: the config that a worker reads, its reports, and its termination message."""

from enum import StrEnum
from typing import Annotated

from pydantic import ConfigDict, Field

from trainwright.api.base import Model
from trainwright.api.exit_codes import FailureClass
from trainwright.api.figures import Measurements, Preflight
from trainwright.api.spec import TrainingJobSpec
from trainwright.api.status import Checkpoint, LaunchSeconds, Results

LARGEST = 2**63 - 1
"""Largest count: the API server cannot store a larger integer and would refuse the whole status."""
MOST_HEARTBEATS = 64
"""Most ranks whose newest step a report contains."""
Count = Annotated[int, Field(ge=0, le=LARGEST)]
Total = Annotated[int, Field(ge=1, le=LARGEST)]


class ReportsEndpoint(Model):
    """The endpoint that receives a worker's reports."""

    url: str = Field(description="URL to POST reports to, including the job's name.")
    ca_file: str = Field(description="File with the CA certificate that verifies the endpoint's certificate.")
    token_file: str = Field(
        description="File with the bearer token. It is read again for every report, because the token rotates."
    )
    interval_seconds: float = Field(2, gt=0, description="Seconds between two reports.")


class WorkerConfig(Model):
    """The config that every worker of a job reads. Values that differ between workers are in environment variables.

    Workers and operator may have different versions: a job keeps its image while the operator is upgraded, and running pods
    keep the config with which they were created. Unknown fields are ignored, except inside the spec.
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
        description="Seconds that the workers present wait for the others before they continue with fewer.",
    )
    metrics_port: int | None = Field(
        None, ge=1, le=65_535, description="Port of the first local rank's metrics; if None, no metrics are served."
    )
    checkpoint_root: str = Field(description="Folder that contains this job's folder <name>-<uid>.")
    data_root: str = Field(description="Folder to which relative dataset paths refer.")
    reports: ReportsEndpoint | None = Field(None, description="Where to report; if None, reports are only logged.")

    def sized(self, count: int, least: int | None) -> "WorkerConfig":
        """Return the config for another number of workers.

        Args:
            count: Workers of the job.
            least: Minimum number of workers to train with; None if all are needed.
        """
        workers = self.spec.workers.changed(count=count, min_count=least)
        return self.changed(spec=self.spec.changed(workers=workers))

    @property
    def job_folder(self) -> str:
        """The folder or URI that holds everything a job writes: `checkpoints/` and `results/`."""
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
    """The newest step of one process."""

    rank: int = Field(ge=0, description="Global rank.")
    step: int = Field(ge=0, description="Newest optimizer step it finished.")
    seconds_ago: float = Field(ge=0, description="Age of that step, in seconds, when the report was made.")


class Absentee(ReportPart):
    """A worker that the others wait for."""

    worker: int = Field(ge=0, description="Its index.")
    attempt: int = Field(
        0, ge=0, description="Attempt of the newest pod that ever joined the rendezvous; 0 if none did."
    )


class Waiting(ReportPart):
    """State of the rendezvous, as seen by one worker."""

    joined: int = Field(ge=0, description="Number of workers that have joined.")
    wanted: int = Field(ge=1, description="Number of workers expected, including those that have joined.")
    missing: list[Absentee] = Field([], max_length=32, description="The first of the missing workers.")
    seconds: float = Field(0, ge=0, description="How long the workers have been waiting.")


class Cause(ReportPart):
    """Why processes ended before their work was done: the post-mortem of the one that failed first."""

    exit_code: int = Field(description="Exit code of the worker.")
    category: FailureClass | None = Field(None, description="Class of the failure; None on success.")
    message: str = Field("", max_length=1024, description="What happened, in one sentence.")
    hint: str | None = Field(None, max_length=512, description="What to do about it.")
    worker: int | None = Field(None, ge=0, description="Worker that failed first.")
    rank: int | None = Field(None, ge=0, description="Rank that failed first.")
    exception: str | None = Field(None, max_length=512, description="Python exception with its message.")
    traceback: str | None = Field(None, max_length=2048, description="Last lines of the traceback.")


class WorkerReport(ReportPart, Measurements):
    """What worker 0 reports about the whole job. Every report is complete: a newer one replaces all older ones.

    The agent of worker 0 reports until the rendezvous is complete, then rank 0 does. Other workers report only if they cannot
    reach worker 0.
    """

    uid: str = Field(max_length=64, description="UID of the job.")
    attempt: Count = Field(description="Attempt that created the reporting pod.")
    launch: str = Field(max_length=64, description="Identifies this launch of the processes; new after each restart.")
    sequence: Count = Field(
        description="Milliseconds since the epoch on the sender's clock; orders an attempt's reports."
    )
    phase: WorkerPhase = Field(description="What the processes are doing.")
    message: str = Field(
        "",
        max_length=1024,
        description="Anything that the user should know, for example that a corrupt checkpoint was skipped.",
    )
    absent: list[int] = Field(
        [], max_length=10_000, description="Workers without which this launch continues (workers.minCount)."
    )
    resumed_from_step: Count | None = Field(None, description="Step of the checkpoint from which this launch resumed.")
    step: Count = Field(0, description="Optimizer steps done.")
    total_steps: Total | None = Field(None, description="Steps of the whole run; None until the data is loaded.")
    epoch: Count = Field(0, description="Epochs done.")
    total_epochs: Total | None = Field(None, description="Epochs of the whole run.")
    samples: Count = Field(0, description="Samples seen, over all processes.")
    peak_memory_bytes: Count | None = Field(None, description="Peak memory of rank 0.")
    seconds: LaunchSeconds | None = Field(None, description="Breakdown of this launch's time so far.")
    preflight: Preflight | None = Field(None, description="Result of the preflight.")
    checkpoints: list[Checkpoint] = Field([], max_length=100, description="Verified checkpoints, oldest first.")
    heartbeats: list[RankHeartbeat] = Field(
        [], max_length=MOST_HEARTBEATS, description="Newest step of the ranks that have gone longest without a step."
    )
    results: Results | None = Field(None, description="Results written at the end.")
    waiting: Waiting | None = Field(None, description="State of the rendezvous while no training processes exist yet.")
    relaunched: Cause | None = Field(
        None, description="Why the previous launch ended, if the processes were restarted inside their pods."
    )

    def newer_than(self, other: "WorkerReport | None") -> bool:
        """Return whether this report replaces the other: a later attempt, or a later report of the same attempt."""
        return other is None or (self.attempt, self.sequence) > (other.attempt, other.sequence)


class Termination(Cause):
    """How a worker ended, in at most 4 KiB: the pod's termination message, which is available even if the operator was down.

    On failure it carries the post-mortem of the process that failed first; on success, worker 0's last report.
    """

    report: WorkerReport | None = Field(None, description="The last report, without heartbeats.")
