"""What to do when numbers go wrong."""

from enum import StrEnum

from pydantic import Field

from trainwright.api.base import Model


class NonFinitePolicy(StrEnum):
    """What follows a loss or a gradient that is no longer a number."""

    STOP = "stop"
    SKIP = "skip"
    ROLLBACK = "rollback"


class HealthSpec(Model):
    """How failures of the arithmetic are met."""

    non_finite: NonFinitePolicy = Field(
        NonFinitePolicy.STOP,
        description="When loss or gradient is not finite: stop (fail; training again would end the same way); skip (leave "
        "out the step; 20 in a row fail the job); rollback (go back to the newest checkpoint and, this time, pass over "
        "the data since the last sound loss; more than 3 times fail the job).",
    )
