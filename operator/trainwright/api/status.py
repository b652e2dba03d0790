"""What the resource says: `TrainingJobStatus`.

The operator alone writes it. Times are RFC 3339 in UTC with whole seconds, as everywhere in Kubernetes. A status is read
leniently (unknown fields are dropped, so an older operator can read a newer one's) and written strictly.
"""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any, ClassVar

from pydantic import AwareDatetime, Field, PlainSerializer, ValidationError

from trainwright.api.base import StatusModel
from trainwright.api.exit_codes import FailureClass
from trainwright.api.figures import Measurements, MetricValues, Preflight


def rfc3339(moment: datetime) -> str:
    """Return a time as Kubernetes writes it: in UTC, with whole seconds."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


# Not strict: on the wire a time is a string, also where a validator has already turned the JSON into Python.
Time = Annotated[AwareDatetime, Field(strict=False), PlainSerializer(rfc3339, return_type=str, when_used="json")]
Digests = Annotated[dict[str, str], Field(max_length=64)]
NodeFailures = Annotated[dict[str, int], Field(max_length=64)]


class Phase(StrEnum):
    """Where a job is in its life."""

    QUEUED = "Queued"
    PENDING = "Pending"
    STARTING = "Starting"
    RUNNING = "Running"
    RESTARTING = "Restarting"
    SUSPENDED = "Suspended"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"

    @property
    def terminal(self) -> bool:
        """Whether nothing follows this phase."""
        return self in (Phase.SUCCEEDED, Phase.FAILED)


class ConditionType(StrEnum):
    """The conditions of a job."""

    ACCEPTED = "Accepted"
    QUEUED = "Queued"
    RUNNING = "Running"
    SUSPENDED = "Suspended"
    COMPLETE = "Complete"
    FAILED = "Failed"
    DEGRADED = "Degraded"


class Condition(StatusModel):
    """A standard Kubernetes condition."""

    type: str = Field(max_length=316, description="Accepted, Queued, Running, Suspended, Complete, Failed or Degraded.")
    status: str = Field(pattern="^(True|False|Unknown)$", max_length=7, description="True, False or Unknown.")
    reason: str = Field(
        min_length=1,
        max_length=1024,
        pattern="^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$",
        description="Why, in one word.",
    )
    message: str = Field("", max_length=32_768, description="Why, in a sentence.")
    last_transition_time: Time = Field(description="When the status last changed.")
    observed_generation: int | None = Field(None, ge=0, description="Generation of the spec that this speaks of.")


class Progress(StatusModel):
    """How far training is. Rises, except after a restart, when `replayedSteps` says by how much it fell."""

    percent: int = Field(0, ge=0, le=100, description="Share of the steps done, in percent, rounded down.")
    step: int = Field(0, ge=0, description="Optimizer steps done.")
    total_steps: int | None = Field(None, ge=1, description="Optimizer steps of the whole run.")
    epoch: int = Field(0, ge=0, description="Epochs done.")
    total_epochs: int | None = Field(None, ge=1, description="Epochs of the whole run.")
    samples: int = Field(0, ge=0, description="Samples seen, over all processes.")
    eta: Time | None = Field(None, description="When training will end at the throughput of this attempt.")
    remaining_seconds: int | None = Field(None, ge=0, description="Seconds from reportedAt to eta.")
    replayed_steps: int = Field(0, ge=0, description="Steps trained again after restarts, all attempts together.")
    resumed_from_step: int | None = Field(None, ge=0, description="Step of the checkpoint this attempt began from.")
    launch: str | None = Field(None, max_length=64, description="Identifies the launch of the processes that reported.")
    ended_launch: str | None = Field(
        None, max_length=64, description="Launch that ended with the newest restart; what it still reports is ignored."
    )
    reported_at: Time | None = Field(None, description="When the newest report arrived.")
    stale: bool = Field(False, description="True when reports are overdue although the job should be running.")


class Metrics(StatusModel, Measurements):
    """How well and how fast the job learns; the newest values."""


class WorkerStatus(StatusModel):
    """One worker pod."""

    index: int = Field(ge=0, description="Index of the worker.")
    pod: str = Field(max_length=253, description="Name of its pod.")
    node: str | None = Field(None, max_length=253, description="Node it runs on.")
    phase: str = Field(max_length=32, description="Pending, Running, Succeeded, Failed or Terminating.")
    reason: str | None = Field(None, max_length=1024, description="Why it waits or failed.")


class Workers(StatusModel):
    """The worker pods, counted; the first hundred by name."""

    desired: int = Field(0, ge=0, description="Workers that the pods of this attempt were made for (workers.count).")
    minimum: int | None = Field(None, ge=1, description="Fewest of them to train with, if not all (workers.minCount).")
    formerly: int | None = Field(
        None, ge=1, description="Workers before workers.count was changed; set until the new ones all run."
    )
    ready: int = Field(0, ge=0, description="Workers whose pod runs.")
    failed: int = Field(0, ge=0, description="Workers whose pod failed.")
    training: int | None = Field(None, ge=0, description="Workers that take part in training, as last reported.")
    absent: list[int] = Field(
        [], max_length=10_000, description="Indices of those that training goes on without (workers.minCount)."
    )
    replaced: int = Field(
        0, ge=0, description="How often such a worker was replaced since one was last let in; the wait grows with it."
    )
    pods: list[WorkerStatus] = Field([], max_length=100, description="Each worker, up to a hundred.")


class LaunchSeconds(StatusModel):
    """Where the time of one launch of the processes went, in seconds on rank 0's clock."""

    loading: float = Field(0, ge=0, description="Importing, reading data and checkpoint, preparing the first step.")
    training: float = Field(0, ge=0, description="Taking steps.")
    checkpointing: float = Field(0, ge=0, description="Training stood still to save; writing goes on beside it.")
    evaluating: float = Field(0, ge=0, description="Measuring, predicting, and writing results.")
    stalled: float = Field(0, ge=0, description="Training stood still for longer than a step ever takes.")


class Goodput(StatusModel):
    """The ledger of the job's time: each second since its creation, charged to what it was spent on."""

    KINDS: ClassVar[tuple[str, ...]] = (
        *("queued", "pending", "starting", "training", "checkpointing", "evaluating"),
        *("replaying", "stalled", "restarting", "suspended"),
    )

    ratio: float = Field(
        0, ge=0, le=1, description="Share of the time neither queued, pending nor suspended that went into new steps."
    )
    queued: int = Field(0, ge=0, description="Seconds in a queue: until the workers were admitted all together.")
    pending: int = Field(0, ge=0, description="Seconds waiting for places.")
    starting: int = Field(0, ge=0, description="Seconds from the last worker's start to the first step.")
    training: int = Field(0, ge=0, description="Seconds of steps not taken before.")
    checkpointing: int = Field(0, ge=0, description="Seconds that training stood still to save.")
    evaluating: int = Field(0, ge=0, description="Seconds of measuring, predicting and writing results.")
    replaying: int = Field(0, ge=0, description="Seconds of steps taken again after a restart.")
    stalled: int = Field(0, ge=0, description="Seconds in which training should have run but stood still.")
    restarting: int = Field(0, ge=0, description="Seconds from a failure until all workers ran again.")
    suspended: int = Field(0, ge=0, description="Seconds suspended.")
    worker_seconds_held: int = Field(0, ge=0, description="Seconds that workers ran, all together.")
    gpu_seconds_held: int = Field(0, ge=0, description="The same, times the GPUs of each.")
    gpu_seconds_used: int = Field(0, ge=0, description="Of these, the seconds spent on steps and evaluations.")
    until: Time = Field(description="Up to when time has been charged.")
    launch: str | None = Field(None, max_length=64, description="Launch whose report was charged last.")
    counted: LaunchSeconds = Field(LaunchSeconds(), description="What of that launch has been charged.")
    step: int = Field(0, ge=0, description="Step of that report.")
    frontier: int = Field(0, ge=0, description="Highest step ever reported; steps up to it are replays.")


class AvoidedNode(StatusModel):
    """A node on which this job's workers kept failing."""

    node: str = Field(max_length=253, description="Name of the node.")
    reason: str = Field("", max_length=1024, description="What happened there.")
    since: Time = Field(description="When it was first avoided.")
    waived: bool = Field(
        False, description="True if it may be used again, since the job could not be scheduled without it."
    )


class Checkpoint(StatusModel):
    """A checkpoint that was written whole and verified."""

    step: int = Field(ge=0, description="Optimizer step it holds.")
    path: str = Field(max_length=2048, description="Folder as the workers see it, or its URI.")
    bytes: int = Field(ge=0, description="Size of its files.")
    sha256: str = Field(max_length=64, description="SHA-256 of its manifest, which lists a checksum of each file.")
    saved_at: Time = Field(description="When it was complete.")
    best: bool = Field(False, description="True for the one whose evaluation was the best so far.")


class Failure(StatusModel):
    """Why the job, or its newest failed attempt, failed. Outlives the pods."""

    category: FailureClass = Field(description="Class of the cause; decides whether trying again can help.")
    message: str = Field(max_length=4096, description="What happened, in a sentence.")
    hint: str | None = Field(None, max_length=1024, description="What to do about it.")
    attempt: int = Field(ge=0, description="Attempt that failed.")
    worker: int | None = Field(None, ge=0, description="Index of the worker that failed first.")
    rank: int | None = Field(None, ge=0, description="Rank of the process that failed first.")
    pod: str | None = Field(None, max_length=253, description="Its pod.")
    node: str | None = Field(None, max_length=253, description="Its node.")
    exit_code: int | None = Field(None, description="Exit code; 128 + n for signal n.")
    reason: str | None = Field(None, max_length=256, description="What Kubernetes calls it, for example OOMKilled.")
    exception: str | None = Field(None, max_length=1024, description="Python exception with its message.")
    traceback: str | None = Field(None, max_length=4096, description="Last lines of the traceback.")
    failed_at: Time = Field(description="When it was noticed.")


class Export(StatusModel):
    """The trained model in one format."""

    format: str = Field(max_length=32, description="safetensors, huggingface, onnx or int8.")
    path: str = Field(max_length=2048, description="File or folder.")
    bytes: int = Field(ge=0, description="Its size.")
    metrics: MetricValues = Field(
        {},
        description="What the exported model itself was measured at: samples, and what the job's evaluations measure, on "
        "at most 4,096 samples; and maxDifference, the largest deviation of its outputs from the trained model's.",
    )


class Generated(StatusModel):
    """A text that the trained model wrote."""

    prompt: str = Field(max_length=256, description="The beginning it was given; cut short if long.")
    text: str = Field(max_length=512, description="How it went on; cut short if long.")


class Results(StatusModel):
    """What a finished job leaves behind, as paths that the workers saw."""

    folder: str = Field(max_length=2048, description="Folder of all results.")
    weights: str | None = Field(None, max_length=2048, description="Final weights (safetensors).")
    predictions: str | None = Field(None, max_length=2048, description="Predictions (CSV or JSON lines).")
    generated: str | None = Field(None, max_length=2048, description="Generated texts (JSON lines).")
    samples: list[Generated] = Field([], max_length=3, description="The first generated texts.")
    exports: list[Export] = Field([], max_length=8, description="The model in other formats, measured.")
    explanations: str | None = Field(
        None, max_length=2048, description="Folder of explained predictions (JSON and pictures)."
    )
    problems: list[Annotated[str, Field(max_length=512)]] = Field(
        [], max_length=8, description="What was asked for besides and could not be made; the trained model is sound."
    )

    def paths(self) -> dict[str, str]:
        """Return what there is, by name."""
        named = {
            "results": self.folder,
            "weights": self.weights,
            "predictions": self.predictions,
            "generated": self.generated,
            "explanations": self.explanations,
            **{export.format: export.path for export in self.exports if export.format != "safetensors"},
        }
        return {name: path for name, path in named.items() if path is not None}


class Summary(StatusModel):
    """The columns of `kubectl get tj`, ready to print."""

    progress: str = Field("", max_length=32, description="Percent done.")
    eta: str = Field("", max_length=32, description="Time left.")
    loss: str = Field("", max_length=32, description="Training loss.")
    metric: str = Field("", max_length=64, description="Main metric of the newest evaluation.")
    workers: str = Field("", max_length=32, description="Ready and desired workers.")
    throughput: str = Field("", max_length=64, description="Samples per second; tokens for language models.")


class TrainingJobStatus(StatusModel):
    """The truth about a job."""

    phase: Phase | None = Field(None, description="Where the job is in its life.")
    message: str = Field("", max_length=4096, description="One honest line: what it does, or why it does not run.")
    reason: str = Field("", max_length=256, description="The same in one word.")
    observed_generation: int | None = Field(None, ge=0, description="Generation of the spec that this speaks of.")
    conditions: list[Condition] = Field(
        [],
        max_length=16,
        description="Standard conditions.",
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]},
    )
    spec_digests: Digests = Field(
        {},
        description="Digest of each field of spec that may not change any more, as it was when last accepted; fields at their "
        "default are left out.",
    )
    attempt: int = Field(0, ge=0, description="Starts of the workers so far, restarts and resumptions included.")
    oldest_attempt: int = Field(
        0, ge=0, description="Pods of older attempts than this are to be deleted; younger ones may live on."
    )
    restarts: int = Field(0, ge=0, description="Restarts after failures so far.")
    restarts_without_progress: int = Field(
        0, ge=0, description="Restarts, preemptions apart, since a checkpoint last went beyond all former ones."
    )
    saved_step: int | None = Field(
        None, ge=0, description="Highest step ever saved, as of the newest restart; more than this is progress."
    )
    next_start: Time | None = Field(None, description="When the next attempt may start (backoff).")
    starts_given_up: int = Field(
        0, ge=0, description="Starts given up since all workers last ran (spec.startDeadlineSeconds)."
    )
    waiting_since: Time | None = Field(None, description="Since when the job waits for all its workers to run.")
    started_at: Time | None = Field(
        None,
        description="When the job became active; moved on by the time it spends in queues. The deadline counts from here.",
    )
    budget_spent_at: Time | None = Field(
        None, description="When spec.budget was found spent; since then the workers save and go."
    )
    finished_at: Time | None = Field(None, description="When it succeeded or failed.")
    preflight: Preflight | None = Field(None, description="What was found out before the first step.")
    node_failures: NodeFailures = Field(
        {}, description="Failures of this job that may be a node's fault, by node; the newest 64 nodes."
    )
    avoided_nodes: list[AvoidedNode] = Field(
        [], max_length=16, description="Nodes that new pods are kept off, since two or more failures happened there."
    )
    progress: Progress = Field(Progress(), description="How far training is.")
    metrics: Metrics = Field(Metrics(), description="How well and how fast it learns.")
    goodput: Goodput | None = Field(None, description="What the job's time went into.")
    workers: Workers = Field(Workers(), description="The worker pods.")
    checkpoints: list[Checkpoint] = Field([], max_length=100, description="Verified checkpoints, oldest first.")
    failure: Failure | None = Field(None, description="The newest failure; kept after a restart.")
    results: Results | None = Field(None, description="What the finished job left behind.")
    summary: Summary = Field(Summary(), description="The columns of kubectl get.")

    def condition(self, kind: ConditionType) -> Condition | None:
        """Return the condition of that type, or None if it was never set."""
        return next((c for c in self.conditions if c.type == kind), None)


def read_status(raw: Any) -> TrainingJobStatus:
    """Return the status held by a resource.

    A field that cannot be read (a hand edit, another version) is left out rather than the whole: losing the attempt counter
    to a bad metric would start a job twice.
    """
    readable = dict(raw) if isinstance(raw, Mapping) else {}
    while True:
        try:
            return TrainingJobStatus.model_validate_json(json.dumps(readable))
        except ValidationError as error:
            unreadable = {str(detail["loc"][0]) for detail in error.errors()}
            readable = {name: value for name, value in readable.items() if name not in unreadable}
