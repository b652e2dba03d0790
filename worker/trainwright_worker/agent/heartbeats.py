"""Who lives: a counter per worker in the store, which rises while the worker does, as worker 0 looks at it.

No two clocks are ever compared: a worker is lost when its counter has stood still for long on worker 0's own.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from torch.distributed import Store  # type: ignore[attr-defined]

HEARTBEAT_SECONDS: Final = 1.0
LOST_AFTER_HEARTBEATS: Final = 15
"""A worker whose counter stands still for so many beats of worker 0's own clock is lost."""


@dataclass(frozen=True)
class _Reading:
    """What was seen of a counter: its value, since when it has had that, and whether it was ever seen to rise."""

    value: int
    since: float
    rose: bool


class WorkerHeartbeats:
    """The counters of all workers, seen from one of them."""

    def __init__(self) -> None:
        """Begin with nothing shown and nothing seen."""
        self._shown = 0
        self._seen: dict[int, _Reading] = {}

    def send(self, keys: Store, index: int) -> None:
        """Raise this worker's own counter."""
        self._shown += 1
        keys.set(_key(index), str(self._shown))

    def read(self, keys: Store, indices: Iterable[int], now: float) -> None:
        """Read the counters of others."""
        for index in indices:
            value = int(keys.compare_set(_key(index), "", "0"))
            before = self._seen.get(index)
            if before is None or before.value != value:
                self._seen[index] = _Reading(value, now, rose=before is not None)

    def forget(self) -> None:
        """Forget what was seen: a new round begins."""
        self._seen.clear()

    def silent(self, index: int, now: float) -> bool:
        """Whether a worker that was looked at has not been heard of for long."""
        sight = self._seen.get(index)
        return sight is not None and now - sight.since > LOST_AFTER_HEARTBEATS * HEARTBEAT_SECONDS

    def alive(self, index: int, now: float) -> bool:
        """Whether a worker was seen to beat, and not long ago."""
        sight = self._seen.get(index)
        return sight is not None and sight.rose and not self.silent(index, now)


def _key(index: int) -> str:
    return f"beat/{index}"
