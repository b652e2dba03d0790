"""The sign of life of a rank, in memory that it shares with its worker's agent.

The agent makes one per rank before it starts them. So it sees each of its ranks at any time without their help, which a rank
that hangs could not give. A rank also writes here how long it may go without a step, since only the rank knows that, and
whether a step can be expected at all.
"""

import ctypes
import math
from collections import deque
from typing import Final

from trainwright.api.spec.health import HangSpec

REMEMBERED: Final = 256
"""Meetings, which are about a second of training or a step apart, whose step times make up the 99th percentile."""
FEWEST: Final = 2
"""Step times that must be known before a rank is watched."""
FORMING: Final = 4
"""How many times `minSeconds` ranks may take to form their group once all of them have begun to, which takes moments."""
FORMING_SECONDS_PER_RANK: Final = 0.1
"""Each rank connects to every other."""


class Pulse(ctypes.Structure):
    """The sign of life of one rank: written by its loop, read by its reporting thread and by its worker's agent.

    Attributes:
        step: Newest optimizer step.
        moves: Rises with every step and every batch that is evaluated.
        seconds: Seconds that a step of its own work takes; 0 until that is known.
        patience: Seconds without a move after which the rank counts as hung; 0 while no step can be expected of it.
        stalled: Set by the agent: whether the rank has stood still for longer than its steps ever take.
        sequence: Of the newest report; the agent hands it on to the next launch. Only rank 0 reports.
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
        """Show life without a step."""
        self.moves += 1

    def rest(self) -> None:
        """Say that no step can be expected from now on."""
        self.patience = 0.0

    def expect(self, patience: float) -> None:
        """Say that the next step must come within so many seconds from now; 0 for whenever it likes."""
        self.moves += 1
        self.patience = patience


def forming_patience(spec: HangSpec, size: int) -> float:
    """Return how many seconds so many ranks may take to form their group; 0 if nobody should watch."""
    return FORMING * spec.min_seconds + FORMING_SECONDS_PER_RANK * size if spec.enabled and size > 1 else 0.0


class Tolerance:
    """How long a rank may go without a step, learnt from how long its steps take.

    The first step of a launch, or after a rollback, is not counted: it compiles, allocates, tunes, and opens files.
    """

    def __init__(self, spec: HangSpec) -> None:
        self._spec = spec
        self._known: deque[float] = deque(maxlen=REMEMBERED)
        self._slow_ones_left = 1

    def note(self, seconds: float) -> None:
        """Learn how many seconds a step has taken."""
        if self._slow_ones_left:
            self._slow_ones_left -= 1
        else:
            self._known.append(seconds)

    def restart(self) -> None:
        """Forget what is known: the next step may take long."""
        self._known.clear()
        self._slow_ones_left = 1

    @property
    def seconds(self) -> float:
        """Seconds without a step that are tolerated; 0 if nobody should watch (yet)."""
        if not self._spec.enabled or len(self._known) < FEWEST:
            return 0.0
        return max(float(self._spec.min_seconds), self._spec.factor * percentile(self._known, 0.99))


def rest_while_compiling(pulse: Pulse) -> None:
    """Have the rank rest whenever torch compiles, which inputs of a new shape may cause in the middle of training."""
    from torch._dynamo import callback  # noqa: PLC0415 - few jobs compile

    patience = 0.0

    def begin(*_: object) -> None:
        nonlocal patience
        patience = pulse.patience
        pulse.rest()

    def end(*_: object) -> None:
        if patience:
            pulse.expect(patience)

    callback.on_compile_start(begin)
    callback.on_compile_end(end)


def percentile(values: deque[float], share: float) -> float:
    """Return the smallest of the values that is not exceeded by this share of them."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]
