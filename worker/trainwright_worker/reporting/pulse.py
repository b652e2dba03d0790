"""The heartbeat of a rank, in memory that it shares with its worker's agent.

The agent creates one per rank before it starts the ranks. So it can read the state of each rank at any time, even if
the rank hangs. A rank also writes here how long it may take without a step, and whether a step is expected at all,
because only the rank knows this.
"""

import ctypes
import math
from collections import deque
from typing import Final

from trainwright.api.spec.health import HangSpec

REMEMBERED: Final = 256
"""Number of recent meetings whose step times determine the 99th percentile. They are about a second or a step apart."""
FEWEST: Final = 2
"""Minimum number of step times before hang detection starts."""
FORMING: Final = 4
"""Time limit for forming the process group after all ranks have started, in multiples of `minSeconds`."""
FORMING_SECONDS_PER_RANK: Final = 0.1
"""Additional time per rank, because each rank connects to every other."""


class Pulse(ctypes.Structure):
    """The heartbeat of one rank: written by its loop, read by its reporting thread and by its worker's agent.

    Attributes:
        step: Current optimizer step.
        moves: Increases with every step and every evaluated batch.
        seconds: Seconds that a step of this rank's own work takes; 0 until it is known.
        patience: Seconds without a move after which the rank counts as hung; 0 while no step is expected.
        stalled: Set by the agent if the rank has not moved for longer than its steps normally take.
        sequence: Sequence number of the latest report, which the agent passes to the next launch. Only rank 0 reports.
    """

    step: int
    moves: int
    seconds: float
    patience: float
    stalled: bool
    sequence: int

    _fields_ = (
        ("step", ctypes.c_int64),
        ("moves", ctypes.c_int64),
        ("seconds", ctypes.c_double),
        ("patience", ctypes.c_double),
        ("stalled", ctypes.c_bool),
        ("sequence", ctypes.c_int64),
    )

    def beat(self) -> None:
        """Record a heartbeat without a step."""
        self.moves += 1

    def pause(self) -> None:
        """Record that no step is expected from now on."""
        self.patience = 0.0

    def expect(self, patience: float) -> None:
        """Record that the next step is expected within `patience` seconds; 0 for no limit."""
        self.moves += 1
        self.patience = patience


def forming_patience(spec: HangSpec, size: int) -> float:
    """Return the seconds that `size` ranks may take to form their group; 0 if hang detection is disabled."""
    return FORMING * spec.min_seconds + FORMING_SECONDS_PER_RANK * size if spec.enabled and size > 1 else 0.0


class Tolerance:
    """The time that a rank may take without a step, learnt from the durations of its steps.

    The first step of a launch or after a rollback is not counted, because it compiles, allocates, tunes, and opens
    files.
    """

    def __init__(self, spec: HangSpec) -> None:
        self._spec = spec
        self._known: deque[float] = deque(maxlen=REMEMBERED)
        self._slow_ones_left = 1

    def note(self, seconds: float) -> None:
        """Record the duration of a step."""
        if self._slow_ones_left:
            self._slow_ones_left -= 1
        else:
            self._known.append(seconds)

    def restart(self) -> None:
        """Discard the durations; the next step may take long."""
        self._known.clear()
        self._slow_ones_left = 1

    @property
    def seconds(self) -> float:
        """Seconds that the rank may take without a step; 0 if hang detection is disabled or has not started."""
        if not self._spec.enabled or len(self._known) < FEWEST:
            return 0.0
        return max(float(self._spec.min_seconds), self._spec.factor * percentile(self._known, 0.99))


def pause_while_compiling(pulse: Pulse) -> None:
    """Pause hang detection while torch compiles, which inputs of a new shape may cause during training."""
    from torch._dynamo import callback  # noqa: PLC0415 - few jobs compile

    patience = 0.0

    def begin(*_: object) -> None:
        nonlocal patience
        patience = pulse.patience
        pulse.pause()

    def end(*_: object) -> None:
        if patience:
            pulse.expect(patience)

    callback.on_compile_start(begin)
    callback.on_compile_end(end)


def percentile(values: deque[float], share: float) -> float:
    """Return the smallest value that at least a fraction `share` of the values does not exceed."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]
