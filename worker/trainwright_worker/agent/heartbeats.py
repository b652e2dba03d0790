"""Heartbeats of workers: each raises a counter of its own in the store, and worker 0 reads all of them.

Clocks of different machines are never compared: a worker is lost when its counter has not risen for long by worker 0's clock.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from torch.distributed import Store  # type: ignore[attr-defined]

HEARTBEAT_SECONDS: Final = 1.0
LOST_AFTER_HEARTBEATS: Final = 15
"""A worker is lost when its counter has not risen for so many heartbeats, by the clock of whoever reads it."""


@dataclass(frozen=True)
class _Reading:
    """What was read of a counter: its value, since when it has had that value, and whether it was ever seen to rise."""

    value: int
    since: float
    rose: bool


class WorkerHeartbeats:
    """The counters of all workers, as one of them sends and reads them."""

    def __init__(self) -> None:
        """Begin with nothing sent and nothing read."""
        self._sent = 0
        self._readings: dict[int, _Reading] = {}

    def send(self, keys: Store, index: int) -> None:
        """Raise this worker's own counter."""
        self._sent += 1
        keys.set(_key(index), str(self._sent))

    def read(self, keys: Store, indices: Iterable[int], now: float) -> None:
        """Read the counters of others."""
        for index in indices:
            value = int(keys.compare_set(_key(index), "", "0"))
            before = self._readings.get(index)
            if before is None or before.value != value:
                self._readings[index] = _Reading(value, now, rose=before is not None)

    def forget(self) -> None:
        """Forget what was read, since a new round begins."""
        self._readings.clear()

    def silent(self, index: int, now: float) -> bool:
        """Return whether the counter of a worker has not risen for too long."""
        reading = self._readings.get(index)
        return reading is not None and now - reading.since > LOST_AFTER_HEARTBEATS * HEARTBEAT_SECONDS

    def alive(self, index: int, now: float) -> bool:
        """Return whether the counter of a worker was seen to rise, and not long ago."""
        reading = self._readings.get(index)
        return reading is not None and reading.rose and not self.silent(index, now)


def _key(index: int) -> str:
    return f"beat/{index}"
