"""Restart policy: which failures lead to a restart, how often, and with which backoff."""

from enum import StrEnum
from typing import Any

from pydantic import Field

from trainwright.api.base import Model
from trainwright.api.exit_codes import RETRYABLE, FailureClass


class Reaction(StrEnum):
    """The reaction to a failure."""

    RESTART = "restart"
    FAIL = "fail"


def _reaction(category: FailureClass, what: str) -> Any:
    """Return the field for one class of failures; the default is to restart if a restart can help."""
    default = Reaction.RESTART if category in RETRYABLE else Reaction.FAIL
    return Field(default, alias=str(category), description=f"{what}: restart or fail.")


class OnFailureSpec(Model):
    """The reaction to each class of failure. The names are those of status.failure.category."""

    user_error: Reaction = _reaction(FailureClass.USER_ERROR, "A mistake in the job")
    data: Reaction = _reaction(FailureClass.DATA, "Missing or unreadable data")
    out_of_memory: Reaction = _reaction(FailureClass.OUT_OF_MEMORY, "Out of memory")
    non_finite: Reaction = _reaction(FailureClass.NON_FINITE, "A loss or gradient that is not finite")
    infrastructure: Reaction = _reaction(
        FailureClass.INFRASTRUCTURE, "A node, network or storage that failed, or a process that was killed"
    )
    preempted: Reaction = _reaction(FailureClass.PREEMPTED, "A pod taken away by the cluster, or deleted")
    hang: Reaction = _reaction(FailureClass.HANG, "A process that hangs")
    internal: Reaction = _reaction(FailureClass.INTERNAL, "A defect of Trainwright, of the image or of a library")

    def to(self, category: FailureClass) -> Reaction:
        """Return the reaction to a failure of this class."""
        reactions = self.model_dump(by_alias=True)
        return Reaction(reactions[category])


class RestartSpec(Model):
    """What happens when workers fail."""

    limit: int = Field(
        3,
        ge=0,
        le=1_000,
        description="Restarts without progress before the job fails. A checkpoint at a step not reached before resets "
        "the count. Preemptions never count.",
    )
    backoff_seconds: int = Field(
        5,
        ge=0,
        le=3_600,
        description="Seconds to wait before the second restart without progress. The wait doubles with each further "
        "one, up to 5 minutes. The first restart is immediate.",
    )
    on_failure: OnFailureSpec = Field(OnFailureSpec(), description="The reaction to each class of failure.")
