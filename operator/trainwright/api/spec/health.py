"""What to do when numbers go wrong, and when a process takes no step any more."""

from enum import StrEnum

from pydantic import Field

from trainwright.api.base import Model


class NonFinitePolicy(StrEnum):
    """What follows a loss or a gradient that is no longer a number."""

    STOP = "stop"
    SKIP = "skip"
    ROLLBACK = "rollback"


class HangSpec(Model):
    """From when on a process that takes no step counts as hung: the larger of a fixed time and a multiple of its own."""

    enabled: bool = Field(
        True, description="Whether to watch for it. What follows is spec.restart.onFailure.Hang's word."
    )
    min_seconds: int = Field(
        15,
        ge=5,
        le=86_400,
        description="Seconds without a step that are never a hang, however short steps are. Whoever compiles, evaluates, "
        "saves or prepares takes its time; only a process that is stopped (SIGSTOP) counts as hung at any time, after two "
        "thirds of this. Processes have four times as long, and 0.1 s for each, to connect to each other.",
    )
    factor: float = Field(
        5,
        ge=2,
        le=1_000,
        description="How many times as long as its slowest steps (the 99th percentile) a process may go without a step.",
    )


class HealthSpec(Model):
    """How failures of the arithmetic are met, and processes that hang."""

    non_finite: NonFinitePolicy = Field(
        NonFinitePolicy.STOP,
        description="When loss or gradient is not finite: stop (fail; training again would end the same way); skip (leave "
        "out the step; 20 in a row fail the job); rollback (go back to the newest checkpoint and, this time, pass over "
        "the data since the last sound loss; more than 3 times fail the job).",
    )
    hang: HangSpec = Field(HangSpec(), description="When a process that takes no step counts as hung.")
