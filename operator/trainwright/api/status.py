"""The status of a TrainingJob: `TrainingJobStatus`.

Only the operator writes it. Times are RFC 3339 in UTC with whole seconds, as everywhere in Kubernetes. A status is read
leniently (unknown fields are dropped, so that an older operator can read the status of a newer one) and written strictly.
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
    """Return a time in Kubernetes' format: in UTC, with whole seconds."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


# Not strict, because a time in JSON is a string, even after a validator has converted the JSON to Python.
Time = Annotated[AwareDatetime, Field(strict=False), PlainSerializer(rfc3339, return_type=str, when_used="json")]
Digests = Annotated[dict[str, str], Field(max_length=64)]
Filled = Annotated[dict[str, str], Field(max_length=32)]
NodeFailures = Annotated[dict[str, int], Field(max_length=64)]


class Phase(StrEnum):
    """The phase of a job."""

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
        """Whether this phase is final."""
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
        description="Machine-readable reason.",
    )
    message: str = Field("", max_length=32_768, description="Human-readable message.")
    last_transition_time: Time = Field(description="When the status last changed.")
    observed_generation: int | None = Field(None, ge=0, description="Generation of the spec that this describes.")


class Progress(StatusModel):
    """Progress of training. It never falls except after a restart; `replayedSteps` then says by how many steps."""

    percent: int = Field(0, ge=0, le=100, description="Percentage of the steps done, rounded down.")
    step: int = Field(0, ge=0, description="Optimizer steps done.")
    total_steps: int | None = Field(None, ge=1, description="Optimizer steps of the whole run.")
    epoch: int = Field(0, ge=0, description="Epochs done.")
    total_epochs: int | None = Field(None, ge=1, description="Epochs of the whole run.")
    samples: int = Field(0, ge=0, description="Samples seen, over all processes.")
    eta: Time | None = Field(None, description="Estimated end of training at the throughput of this attempt.")
    remaining_seconds: int | None = Field(None, ge=0, description="Seconds from reportedAt to eta.")
    replayed_steps: int = Field(0, ge=0, description="Steps repeated after restarts, over all attempts.")
    resumed_from_step: int | None = Field(
        None, ge=0, description="Step of the checkpoint from which this attempt resumed."
    )
    launch: str | None = Field(None, max_length=64, description="Identifies the launch of the processes that reported.")
    ended_launch: str | None = Field(
        None, max_length=64, description="Launch that ended with the newest restart. Its late reports are ignored."
    )
    reported_at: Time | None = Field(None, description="When the newest report arrived.")
    stale: bool = Field(False, description="True when reports are overdue although the job should be running.")


class Metrics(StatusModel, Measurements):
    """The newest metrics of the job."""


class WorkerStatus(StatusModel):
    """One worker pod."""

    index: int = Field(ge=0, description="Index of the worker.")
    pod: str = Field(max_length=253, description="Name of its pod.")
    node: str | None = Field(None, max_length=253, description="Node it runs on.")
    phase: str = Field(max_length=32, description="Pending, Running, Succeeded, Failed or Terminating.")
    reason: str | None = Field(None, max_length=1024, description="Why the pod is waiting or has failed.")


class Workers(StatusModel):
    """Counts of the worker pods, and the state of the first hundred."""

    desired: int = Field(
        0, ge=0, description="Number of workers for which the pods of this attempt were created (workers.count)."
    )
    minimum: int | None = Field(
        None, ge=1, description="Minimum number of workers to train with, if not all (workers.minCount)."
    )
    formerly: int | None = Field(
        None, ge=1, description="Number of workers before workers.count was changed. Set until all new workers run."
    )
    ready: int = Field(0, ge=0, description="Number of workers whose pod is running.")
    failed: int = Field(0, ge=0, description="Number of workers whose pod has failed.")
    training: int | None = Field(
        None, ge=0, description="Number of workers that take part in training, as last reported."
    )
    absent: list[int] = Field(
        [], max_length=10_000, description="Indices of the workers without which training continues (workers.minCount)."
    )
    replaced: int = Field(
        0,
        ge=0,
        description="How often an absent worker has been replaced since one last rejoined. The backoff grows with it.",
    )
    pods: list[WorkerStatus] = Field([], max_length=100, description="The workers, up to a hundred.")


class LaunchSeconds(StatusModel):
    """Breakdown of the time of one launch of the processes, in seconds on rank 0's clock."""

    loading: float = Field(0, ge=0, description="Imports, loading data and checkpoint, preparing the first step.")
    training: float = Field(0, ge=0, description="Training steps.")
    checkpointing: float = Field(
        0, ge=0, description="Training paused to save. Writing continues in the background and is not counted."
    )
    evaluating: float = Field(0, ge=0, description="Evaluating, predicting and writing results.")
    stalled: float = Field(0, ge=0, description="Training made no progress for longer than any step takes.")


class Goodput(StatusModel):
    """Breakdown of the job's time: each second since its creation is attributed to one activity."""

    KINDS: ClassVar[tuple[str, ...]] = (
        *("queued", "pending", "starting", "training", "checkpointing", "evaluating"),
        *("replaying", "stalled", "restarting", "suspended"),
    )

    ratio: float = Field(
        0,
        ge=0,
        le=1,
        description="Fraction of the time, apart from queued, pending and suspended, that was spent on new steps.",
    )
    queued: int = Field(0, ge=0, description="Seconds in a queue, until all workers were admitted together.")
    pending: int = Field(0, ge=0, description="Seconds waiting for pods to be scheduled and started.")
    starting: int = Field(0, ge=0, description="Seconds from the last worker's start to the first step.")
    training: int = Field(0, ge=0, description="Seconds spent on new steps.")
    checkpointing: int = Field(0, ge=0, description="Seconds that training paused to save.")
    evaluating: int = Field(0, ge=0, description="Seconds spent evaluating, predicting and writing results.")
    replaying: int = Field(0, ge=0, description="Seconds spent repeating steps after a restart.")
    stalled: int = Field(0, ge=0, description="Seconds in which training should have run but made no progress.")
    restarting: int = Field(0, ge=0, description="Seconds from a failure until all workers were running again.")
    suspended: int = Field(0, ge=0, description="Seconds suspended.")
    worker_seconds_held: int = Field(0, ge=0, description="Seconds that workers ran, summed over all workers.")
    gpu_seconds_held: int = Field(0, ge=0, description="The same, multiplied by the GPUs per worker.")
    gpu_seconds_used: int = Field(
        0, ge=0, description="Those of the held GPU seconds that were spent on steps and evaluations."
    )
    until: Time = Field(description="Time up to which the breakdown is complete.")
    launch: str | None = Field(None, max_length=64, description="Launch whose report was counted last.")
    counted: LaunchSeconds = Field(LaunchSeconds(), description="The part of that launch's time that has been counted.")
    step: int = Field(0, ge=0, description="Step in that report.")
    frontier: int = Field(0, ge=0, description="Highest step ever reported. Steps up to it count as replays.")


class AvoidedNode(StatusModel):
    """A node on which this job's workers kept failing."""

    node: str = Field(max_length=253, description="Name of the node.")
    reason: str = Field("", max_length=1024, description="What happened there.")
    since: Time = Field(description="When it was first avoided.")
    waived: bool = Field(
        False, description="True if the node may be used again because the job could not be scheduled without it."
    )


class Checkpoint(StatusModel):
    """A checkpoint that is complete and verified."""

    step: int = Field(ge=0, description="Optimizer step of the checkpoint.")
    path: str = Field(max_length=2048, description="Path in the workers, or URI.")
    bytes: int = Field(ge=0, description="Size of its files.")
    sha256: str = Field(max_length=64, description="SHA-256 of its manifest, which lists a checksum of each file.")
    saved_at: Time = Field(description="When the checkpoint was complete.")
    best: bool = Field(False, description="True if its evaluation is the best so far.")


class Failure(StatusModel):
    """Why the job or its newest failed attempt failed. It is kept after the pods are gone."""

    category: FailureClass = Field(description="Class of the failure. It decides whether the job restarts.")
    message: str = Field(max_length=4096, description="What happened, in one sentence.")
    hint: str | None = Field(None, max_length=1024, description="What to do about it.")
    attempt: int = Field(ge=0, description="Attempt that failed.")
    worker: int | None = Field(None, ge=0, description="Index of the worker that failed first.")
    rank: int | None = Field(None, ge=0, description="Rank of the process that failed first.")
    pod: str | None = Field(None, max_length=253, description="Its pod.")
    node: str | None = Field(None, max_length=253, description="Its node.")
    exit_code: int | None = Field(None, description="Exit code; 128 + n for signal n.")
    reason: str | None = Field(None, max_length=256, description="Reason given by Kubernetes, for example OOMKilled.")
    exception: str | None = Field(None, max_length=1024, description="Python exception with its message.")
    traceback: str | None = Field(None, max_length=4096, description="Last lines of the traceback.")
    failed_at: Time = Field(description="When the failure was noticed.")


class Export(StatusModel):
    """The trained model in one format."""

    format: str = Field(max_length=32, description="safetensors, huggingface, onnx or int8.")
    path: str = Field(max_length=2048, description="File or folder.")
    bytes: int = Field(ge=0, description="Its size.")
    metrics: MetricValues = Field(
        {},
        description="Metrics of the exported model, measured on at most 4,096 samples: samples (their number), the metrics of the "
        "job's evaluations, and maxDifference, the largest deviation of its outputs from the trained model's.",
    )


class Generated(StatusModel):
    """A text that the trained model wrote."""

    prompt: str = Field(max_length=256, description="The prompt; truncated if long.")
    text: str = Field(max_length=512, description="The generated continuation; truncated if long.")


class Results(StatusModel):
    """The results of a finished job, as paths in the workers or URIs."""

    folder: str = Field(max_length=2048, description="Folder of all results.")
    weights: str | None = Field(None, max_length=2048, description="Final weights (safetensors).")
    predictions: str | None = Field(None, max_length=2048, description="Predictions (CSV or JSON lines).")
    generated: str | None = Field(None, max_length=2048, description="Generated texts (JSON lines).")
    samples: list[Generated] = Field([], max_length=3, description="The first generated texts.")
    exports: list[Export] = Field([], max_length=8, description="The model in other formats, with their metrics.")
    explanations: str | None = Field(
        None, max_length=2048, description="Folder of explained predictions (JSON and pictures)."
    )
    problems: list[Annotated[str, Field(max_length=512)]] = Field(
        [], max_length=8, description="Requested outputs that could not be produced. The trained model is not affected."
    )

    def paths(self) -> dict[str, str]:
        """Return the paths of the results that exist, by name."""
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

    progress: str = Field("", max_length=32, description="Percentage done.")
    eta: str = Field("", max_length=32, description="Time left.")
    loss: str = Field("", max_length=32, description="Training loss.")
    metric: str = Field("", max_length=64, description="Main metric of the newest evaluation.")
    workers: str = Field("", max_length=32, description="Ready and desired workers.")
    throughput: str = Field("", max_length=64, description="Samples per second; tokens for language models.")


class AppliedClass(StatusModel):
    """The TrainingClass of a started job, and what it has filled in."""

    name: str = Field(max_length=253, description="Name of the class.")
    filled: Filled = Field(
        {},
        description="What the class filled in, as JSON by its path in spec. It holds until the job ends, whatever becomes of "
        "the class.",
    )
    pods: str | None = Field(
        None, max_length=131_072, description="What the class adds to worker pods, as JSON. It holds as long."
    )


class TrainingJobStatus(StatusModel):
    """The observed state of a job."""

    operator: str = Field(
        "",
        max_length=512,
        description="The release of the operator that drives the job, as NAMESPACE/LEASE. Other releases leave the job alone unless "
        "this one is gone.",
    )
    phase: Phase | None = Field(None, description="Phase of the job.")
    message: str = Field("", max_length=4096, description="What the job is doing, or why it does not run, in one line.")
    reason: str = Field("", max_length=256, description="Machine-readable reason for the phase.")
    observed_generation: int | None = Field(None, ge=0, description="Generation of the spec that this describes.")
    conditions: list[Condition] = Field(
        [],
        max_length=16,
        description="Standard conditions.",
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]},
    )
    spec_digests: Digests = Field(
        {},
        description="Digest of each immutable field of spec, as of when the spec was last accepted. Fields at their default are "
        "left out.",
    )
    class_: AppliedClass | None = Field(
        None, description="TrainingClass of the job, as of the first start; absent if it has none."
    )
    attempt: int = Field(
        0, ge=0, description="Number of starts of the workers so far, including restarts and resumptions."
    )
    oldest_attempt: int = Field(
        0, ge=0, description="Pods of older attempts than this are deleted; pods of this and later attempts are kept."
    )
    restarts: int = Field(0, ge=0, description="Number of restarts after failures so far.")
    restarts_without_progress: int = Field(
        0,
        ge=0,
        description="Restarts, not counting preemptions, since a checkpoint last passed the highest step saved before.",
    )
    saved_step: int | None = Field(
        None,
        ge=0,
        description="Highest step ever saved, as of the newest restart. A checkpoint beyond it counts as progress.",
    )
    next_start: Time | None = Field(None, description="When the next attempt may start (backoff).")
    starts_given_up: int = Field(
        0, ge=0, description="Number of starts that missed spec.startDeadlineSeconds since all workers last ran."
    )
    waiting_since: Time | None = Field(
        None, description="Since when the job has been waiting for all its workers to run."
    )
    started_at: Time | None = Field(
        None,
        description="When the job became active, moved forward by the time spent in queues. The active deadline counts from here.",
    )
    budget_spent_at: Time | None = Field(
        None,
        description="When spec.budget was found to be spent. Since then, the workers have been saving and stopping.",
    )
    finished_at: Time | None = Field(None, description="When the job succeeded or failed.")
    preflight: Preflight | None = Field(None, description="Result of the preflight.")
    node_failures: NodeFailures = Field(
        {},
        description="Number of failures of this job that the node may have caused, by node. Keeps the newest 64 nodes.",
    )
    avoided_nodes: list[AvoidedNode] = Field(
        [], max_length=16, description="Nodes that new pods avoid because two or more failures happened there."
    )
    progress: Progress = Field(Progress(), description="Progress of training.")
    metrics: Metrics = Field(Metrics(), description="Newest metrics.")
    goodput: Goodput | None = Field(None, description="Breakdown of the job's time.")
    workers: Workers = Field(Workers(), description="The worker pods.")
    checkpoints: list[Checkpoint] = Field([], max_length=100, description="Verified checkpoints, oldest first.")
    failure: Failure | None = Field(None, description="The newest failure; kept after a restart.")
    results: Results | None = Field(None, description="Results of the finished job.")
    summary: Summary = Field(Summary(), description="The columns of kubectl get.")

    def condition(self, kind: ConditionType) -> Condition | None:
        """Return the condition of that type, or None if it was never set."""
        return next((c for c in self.conditions if c.type == kind), None)


def read_status(raw: Any) -> TrainingJobStatus:
    """Return the status of a resource.

    A top-level field that cannot be parsed (edited by hand, or written by another version) is dropped; the others are kept.
    If one bad metric discarded the attempt counter, the job would start twice.
    """
    readable = dict(raw) if isinstance(raw, Mapping) else {}
    while True:
        try:
            return TrainingJobStatus.model_validate_json(json.dumps(readable))
        except ValidationError as error:
            unreadable = {str(detail["loc"][0]) for detail in error.errors()}
            readable = {name: value for name, value in readable.items() if name not in unreadable}
