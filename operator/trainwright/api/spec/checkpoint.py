"""How the state of training outlives its processes: where it is saved, how it is split, and what a job starts from."""

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from trainwright.api.base import Model, Rule, at_most_one_of
from trainwright.api.spec.paths import Path
from trainwright.api.spec.workers import DnsName

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
    """Where and how often the state of training is saved. A save at the end always happens."""

    persistent_volume_claim: DnsName | None = Field(
        None,
        description="Claim that all workers can mount (ReadWriteMany for more than one node). Without it and without "
        "uri, checkpoints live in worker 0's scratch space: they survive a crashed process, and are lost with the pod.",
    )
    uri: BucketUri | None = Field(
        None,
        description="Place in an object store, s3://bucket/prefix, for checkpoints and results. Credentials come from "
        "the workers' environment (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY; AWS_ENDPOINT_URL for stores other than "
        "Amazon's), best by valueFrom of workers.env, or from the service account.",
    )
    every_steps: int | None = Field(None, ge=1, le=1_000_000_000, description="Steps between checkpoints.")
    every_seconds: int | None = Field(
        None, ge=1, le=86_400, description="Seconds between checkpoints; 60 if neither is set."
    )
    keep: int = Field(3, ge=1, le=100, description="Number of checkpoints to keep; older ones are deleted.")
    keep_best: bool = Field(
        False,
        description="Also save after every evaluation that is the best so far, and keep that checkpoint however old "
        "it becomes. What comes after training is then of its weights: test metrics, predictions, exports and all "
        "other results.",
    )

    rules = (
        at_most_one_of("persistent_volume_claim", "uri", what="checkpoint"),
        at_most_one_of("every_steps", "every_seconds", what="checkpoint"),
    )

    @property
    def durable(self) -> bool:
        """Whether checkpoints lie outside the pods."""
        return self.persistent_volume_claim is not None or self.uri is not None


class StartFromSpec(Model):
    """Another job's model to start from. Training begins at step 0; a job that resumes goes on from its own state."""

    path: Path = Field(
        description="A checkpoint (…/checkpoints/step-00001000), a results folder, a job's folder (its newest "
        "checkpoint) or a file of weights (safetensors). Relative to the root of the checkpoints, an absolute path "
        "inside a volume of the workers, or an URI (s3://bucket/key). `trainwright run` begins relative paths at the "
        "manifest's folder, and takes the folder of a run (runs/NAME-1) too."
    )
    optimizer: bool = Field(
        False, description="Also take over what the optimizer has gathered; by default only the weights are."
    )

    rules = (
        Rule(
            field="path",
            message="only s3:// URIs can be read",
            cel="!self.path.contains('://') || self.path.startsWith('s3://')",
            holds=lambda self: "://" not in self.path or self.path.startswith("s3://"),
        ),
    )
