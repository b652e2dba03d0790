"""Checkpoints: where the training state is saved, how it is sharded, and what a job starts from."""

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from trainwright.api.base import Model, Rule, at_most_one_of
from trainwright.api.spec.paths import Path
from trainwright.api.spec.primitives import DnsName

BucketUri = Annotated[
    str,
    Field(
        max_length=1024,
        pattern=r"^s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[A-Za-z0-9_=-][A-Za-z0-9_.=-]*)*/?$",
    ),
]


class Parallelism(StrEnum):
    """How several processes share the work on one model."""

    DDP = "ddp"
    FSDP = "fsdp"


class CheckpointSpec(Model):
    """Where and how often the training state is saved. It is always saved at the end."""

    persistent_volume_claim: DnsName | None = Field(
        None,
        description="Claim that all workers can mount (ReadWriteMany for more than one node). Without it and without "
        "uri, checkpoints are in worker 0's scratch space: they survive a crashed process but are lost with the pod.",
    )
    uri: BucketUri | None = Field(
        None,
        description="Location in an object store, s3://bucket/prefix, for checkpoints and results. Credentials come from "
        "the workers' environment (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY; AWS_ENDPOINT_URL for stores other than "
        "Amazon's), preferably set with valueFrom in workers.env, or from the service account.",
    )
    every_steps: int | None = Field(None, ge=1, le=1_000_000_000, description="Steps between checkpoints.")
    every_seconds: int | None = Field(
        None, ge=1, le=86_400, description="Seconds between checkpoints; 60 if neither is set."
    )
    keep: int = Field(3, ge=1, le=100, description="Number of checkpoints to keep; older ones are deleted.")
    keep_best: bool = Field(
        False,
        description="Also save after every evaluation that is the best so far, and keep that checkpoint regardless "
        "of its age. Test metrics, predictions, exports and all other results then use its weights.",
    )

    rules = (
        at_most_one_of("persistent_volume_claim", "uri", what="checkpoint"),
        at_most_one_of("every_steps", "every_seconds", what="checkpoint"),
    )

    @property
    def durable(self) -> bool:
        """Whether checkpoints are stored outside the pods."""
        return self.persistent_volume_claim is not None or self.uri is not None


class StartFromSpec(Model):
    """Another job's model to start from. Training begins at step 0, or with `resume` where the other job has stopped."""

    path: Path = Field(
        description="A checkpoint (…/checkpoints/step-00001000), a results folder, a job's folder (its newest "
        "checkpoint) or a file of weights (safetensors). Relative to the root of the checkpoints, an absolute path "
        "inside a volume of the workers, or a URI (s3://bucket/key). With `trainwright run`, relative paths start at the "
        "manifest's folder, and the folder of a run (runs/NAME-1) is accepted too."
    )
    optimizer: bool = Field(False, description="Also load the optimizer state; by default only the weights are loaded.")
    resume: bool = Field(
        False,
        description="Continue the other job: its newest checkpoint is copied to this job's folder, and training resumes from "
        "it with everything that it contains, such as the step and the optimizer state. For a job that was restored from a "
        "backup or moved to another cluster; model, data and optimizer must be the same. Needs a path to a job's folder or "
        "to a checkpoint.",
    )

    rules = (
        Rule(
            field="path",
            message="only s3:// URIs can be read",
            cel="!self.path.contains('://') || self.path.startsWith('s3://')",
            holds=lambda self: "://" not in self.path or self.path.startswith("s3://"),
        ),
        Rule(
            field="optimizer",
            message="resume restores the optimizer state anyway: remove one of the two",
            cel="!(self.resume && self.optimizer)",
            holds=lambda self: not (self.resume and self.optimizer),
        ),
    )
