"""What a tracker is."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol


class Ending(StrEnum):
    """How a launch of the processes ended."""

    FINISHED = "finished"
    FAILED = "failed"
    PREEMPTED = "preempted"


@dataclass(frozen=True)
class RunInfo:
    """What is known of a run before its first record.

    Attributes:
        name: Name of the job.
        uid: UID of the job, by which a restarted launch finds the run of the one before.
        attempt: Attempt that this launch belongs to.
        resumed: Step that this launch goes on from; 0 from scratch. Later steps of earlier launches never happened.
        params: The spec, flattened: `optimizer.learningRate` and so on.
        folder: Folder for what trackers keep beside the results.
    """

    name: str
    uid: str
    attempt: int
    resumed: int
    params: Mapping[str, Any]
    folder: str


@dataclass(frozen=True)
class Record:
    """What was measured at one step.

    Attributes:
        step: Optimizer steps done.
        seconds: When, in seconds since the epoch.
        values: Value by tag, for example `train/loss`.
    """

    step: int
    seconds: float
    values: Mapping[str, float]


class Tracker(Protocol):
    """Keeps records somewhere. Any exception it raises ends its service, never the training."""

    def write(self, records: list[Record]) -> None:
        """Keep records, in the order of their steps."""

    def close(self, ending: Ending, artifacts: Mapping[str, str]) -> None:
        """End the run.

        Args:
            ending: How the launch ended.
            artifacts: Path by name of what the job has left behind.
        """


def flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """Return nested JSON types as one mapping: `{"a": {"b": [1]}}` becomes `{"a.b.0": 1}`."""
    if isinstance(value, Mapping):
        items = list(value.items())
    elif isinstance(value, list | tuple):
        items = [(str(index), item) for index, item in enumerate(value)]
    else:
        return {prefix: value}
    flat: dict[str, Any] = {}
    for name, item in items:
        flat |= flatten(item, f"{prefix}.{name}" if prefix else name)
    return flat
