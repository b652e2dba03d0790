"""The interface of trackers."""

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
    """Information about a run.

    Attributes:
        name: Name of the job.
        uid: UID of the job, by which a restarted job finds its run.
        attempt: Attempt of this launch.
        resumed: Step from which this launch resumes; 0 from scratch. Later steps of earlier launches are discarded.
        params: The flattened spec, such as `optimizer.learningRate`.
        folder: Folder for files of trackers.
    """

    name: str
    uid: str
    attempt: int
    resumed: int
    params: Mapping[str, Any]
    folder: str


@dataclass(frozen=True)
class Record:
    """Values at one step.

    Attributes:
        step: Optimizer steps done.
        seconds: Time in seconds since the epoch.
        values: Values by tag, for example `train/loss`.
    """

    step: int
    seconds: float
    values: Mapping[str, float]


class Tracker(Protocol):
    """Stores records. An exception stops the tracker, but not training."""

    def write(self, records: list[Record]) -> None:
        """Store records, in the order of their steps."""

    def close(self, ending: Ending, artifacts: Mapping[str, str]) -> None:
        """End the run.

        Args:
            ending: How the launch ended.
            artifacts: Paths of the job's results by name.
        """


def flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """Return nested JSON types as a flat mapping: `{"a": {"b": [1]}}` becomes `{"a.b.0": 1}`."""
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
