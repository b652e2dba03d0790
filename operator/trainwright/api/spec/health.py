"""How a job reacts to non-finite numbers and to hung processes."""

from enum import StrEnum

from pydantic import Field

from trainwright.api.base import Model


class NonFinitePolicy(StrEnum):
    """The reaction to a loss or a gradient that is not finite."""

    STOP = "stop"
    SKIP = "skip"
    ROLLBACK = "rollback"


class HangSpec(Model):
    """How long a process may go without a step before it counts as hung: a fixed time or a multiple of its step time, whichever is longer."""

    enabled: bool = Field(
        True, description="Whether to detect hangs. spec.restart.onFailure.Hang decides the reaction."
    )
    min_seconds: int = Field(
        15,
        ge=5,
        le=86_400,
        description="Seconds without a step that never count as a hang, however short the steps are. Compilation, evaluation, "
        "saving and preparation never count; only a process that is stopped (SIGSTOP) counts as hung at any time, after "
        "two thirds of this. To connect to each other, processes have four times this long, plus 0.1 s per process.",
    )
    factor: float = Field(
        5,
        ge=2,
        le=1_000,
        description="A process may go without a step for this many times its slowest step time (99th percentile).",
    )


class HealthSpec(Model):
    """How the job reacts to non-finite numbers and to hung processes."""

    non_finite: NonFinitePolicy = Field(
        NonFinitePolicy.STOP,
        description="When loss or gradient is not finite: stop (fail, because a restart would end the same way); skip (skip the "
        "step; 20 in a row fail the job); rollback (return to the newest checkpoint and skip the data since the last "
        "finite loss; more than 3 rollbacks fail the job).",
    )
    hang: HangSpec = Field(HangSpec(), description="When a process that takes no step counts as hung.")
