"""What happens when workers fail: which causes are tried again, how often, and after what wait."""

from enum import StrEnum
from typing import Any

from pydantic import Field

from trainwright.api.base import Model
from trainwright.api.exit_codes import RETRYABLE, FailureClass


class Reaction(StrEnum):
    """What follows from a failure."""

    RESTART = "restart"
    FAIL = "fail"


def _reaction(category: FailureClass, what: str) -> Any:
    """Return the field for one class of failures; its default is whether trying again can help at all."""
    default = Reaction.RESTART if category in RETRYABLE else Reaction.FAIL
    return Field(default, alias=str(category), description=f"{what}: restart or fail.")


class OnFailureSpec(Model):
    """What follows from each class of failure, under the names that status.failure.category has for them."""

    user_error: Reaction = _reaction(FailureClass.USER_ERROR, "A mistake in the job")
    data: Reaction = _reaction(FailureClass.DATA, "Data that is missing or cannot be read")
    out_of_memory: Reaction = _reaction(FailureClass.OUT_OF_MEMORY, "More memory used than there is")
    non_finite: Reaction = _reaction(FailureClass.NON_FINITE, "A loss that is no longer a number")
    infrastructure: Reaction = _reaction(
        FailureClass.INFRASTRUCTURE, "A node, network or storage that failed, or a process that was killed"
    )
    preempted: Reaction = _reaction(FailureClass.PREEMPTED, "A pod taken away by the cluster, or deleted")
    hang: Reaction = _reaction(FailureClass.HANG, "A process that takes no step any more")
    internal: Reaction = _reaction(FailureClass.INTERNAL, "A defect of Trainwright, of the image or of a library")

    def to(self, category: FailureClass) -> Reaction:
        """Return what follows from a failure of this class."""
        reactions = self.model_dump(by_alias=True)
        return Reaction(reactions[category])


class RestartSpec(Model):
    """What happens when workers fail."""

    limit: int = Field(
        3,
        ge=0,
        le=1_000,
        description="Restarts without progress before the job fails: a checkpoint beyond all former ones starts the "
        "count anew. Preemptions never count.",
    )
    backoff_seconds: int = Field(
        5,
        ge=0,
        le=3_600,
        description="Wait before the second restart without progress, doubled each time, at most 5 minutes. The first "
        "does not wait.",
    )
    on_failure: OnFailureSpec = Field(OnFailureSpec(), description="What follows from each class of failure.")
