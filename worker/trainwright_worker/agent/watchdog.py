"""Sees that a rank of this worker hangs, and finds out with the other workers which one is at fault.

A rank hangs when it has not moved for longer than its own patience (see `reporting/pulse.py`), or when something has stopped
its process. Time counts only while this process itself runs, and starts anew whenever any rank of the job rests: who waits
for a peer that compiles or saves stands still for a good reason. So nothing that the ranks themselves call slow is a hang.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from trainwright.api.spec.health import HangSpec
from trainwright_worker.agent.inquest import Inquest
from trainwright_worker.agent.stacks import State, ask_for_stacks, kernel_function, main_stack, place_of, state_of
from trainwright_worker.agent.verdict import LONGEST_PLACE, LONGEST_STACK, Verdict, Witness, judge
from trainwright_worker.console import say
from trainwright_worker.reporting.pulse import Pulse

LOOK_SECONDS: Final = 1.0
"""Seconds between two looks at what costs something: the store, and what the kernel says of a rank that stands still."""
LONGEST_GAP: Final = 0.5
"""Seconds between two looks at the pulses that count; more have passed while this process itself was stopped."""
STOPPED_SHARE: Final = 2 / 3
"""Share of `minSeconds` after which a rank whose process is stopped is hung: that the kernel says so leaves no doubt."""
STALLED_SHARE: Final = 1 / 3
"""Share of its patience after which a rank that stands still is charged as stalled."""


@dataclass(frozen=True)
class Ward:
    """A rank under watch.

    Attributes:
        rank: Its number.
        pid: Its process.
        pulse: Its sign of life.
    """

    rank: int
    pid: int
    pulse: Pulse


class Vigil:
    """For how long one rank has stood still.

    Attributes:
        idle: Seconds without a move, while one could be expected.
        still: Seconds without a move, whether or not one could be.
        stopped: Seconds of these for which its process was stopped.
    """

    def __init__(self) -> None:
        self.idle = self.still = self.stopped = 0.0
        self._seen = (-1, 0.0)

    def look(self, moves: int, patience: float, elapsed: float) -> None:
        """Take note of a rank's pulse, `elapsed` seconds after the look before."""
        seen = (moves, patience)
        if seen != self._seen:
            self._seen = seen
            self.idle = self.still = self.stopped = 0.0
            return
        self.still += elapsed
        self.idle += elapsed if patience else 0.0

    def forgive(self) -> None:
        """Start to count anew, since a rank that this one may wait for rests."""
        self.idle = 0.0


class Watchdog:
    """Watches the ranks of one worker during one launch."""

    def __init__(self, spec: HangSpec, index: int, wards: Sequence[Ward], scratch: Path, inquest: Inquest) -> None:
        """Begin to watch.

        Args:
            spec: From when on a rank that is stopped counts as hung, and whether to watch at all.
            index: This worker.
            wards: Its ranks, in the order of their local ranks.
            scratch: Folder in which they leave their stacks.
            inquest: How the other workers are asked.
        """
        self._spec = spec
        self._index = index
        self._wards = wards
        self._scratch = scratch
        self._inquest = inquest
        self._vigils = [Vigil() for _ in wards]
        self._looked = self._looked_around = time.monotonic()

    def look(self) -> Verdict | None:
        """Return why the job hangs, if it does; call this many times a second.

        Raises:
            RuntimeError: The store is gone.
        """
        if not self._spec.enabled:
            return None
        now = time.monotonic()
        elapsed, self._looked = min(now - self._looked, LONGEST_GAP), now
        for ward, vigil in zip(self._wards, self._vigils, strict=True):
            vigil.look(ward.pulse.moves, ward.pulse.patience, elapsed)
            ward.pulse.stalled = 0 < ward.pulse.patience * STALLED_SHARE < vigil.idle
        if any(not ward.pulse.patience for ward in self._wards):
            self._forgive()
        opened = False
        if now - self._looked_around >= LOOK_SECONDS:
            opened = self._look_around(now)
        hung = self._find_hung()
        if not opened and hung is None:
            return None
        return self._inquire(hung)

    def _look_around(self, now: float) -> bool:
        """Look at what costs something; return whether another worker has noticed a hang."""
        since, self._looked_around = min(now - self._looked_around, 2 * LOOK_SECONDS), now
        for ward, vigil in zip(self._wards, self._vigils, strict=True):
            stopped = vigil.still >= LOOK_SECONDS and state_of(ward.pid) == State.STOPPED
            vigil.stopped = vigil.stopped + since if stopped else 0.0
        if any(not ward.pulse.patience for ward in self._wards):
            self._inquest.tell_resting()
        if self._inquest.someone_rested():
            self._forgive()
        return self._inquest.opened

    def _forgive(self) -> None:
        for vigil in self._vigils:
            vigil.forgive()

    def _find_hung(self) -> int | None:
        """Return the local rank that hangs, one whose process is stopped first; None if none does."""
        enough = STOPPED_SHARE * self._spec.min_seconds
        found = [number for number, vigil in enumerate(self._vigils) if vigil.stopped >= enough]
        for number, (ward, vigil) in enumerate(zip(self._wards, self._vigils, strict=True)):
            if 0 < ward.pulse.patience < vigil.idle:
                found.append(number)
        return found[0] if found else None

    # -- finding out why ---------------------------------------------------------------------------------------------

    def _inquire(self, hung: int | None) -> Verdict:
        """Leave the stacks of this worker's ranks in the log, and return what the workers find together.

        Args:
            hung: The local rank that hangs; None if another worker has noticed.
        """
        witnesses = [self._question(number) for number in range(len(self._wards))]
        finder = witnesses[hung or 0]
        try:
            leads = hung is not None and self._inquest.open()
            self._inquest.testify(witnesses)
            verdict = self._inquest.close(finder) if leads else self._inquest.hear()
        except RuntimeError:
            verdict = None
        return verdict or judge(witnesses, self._inquest.others, finder)

    def _question(self, number: int) -> Witness:
        """Return what is found of one rank, and print its stacks."""
        ward, vigil = self._wards[number], self._vigils[number]
        state = state_of(ward.pid)
        text = ask_for_stacks(ward.pid, self._scratch, number) if state in (State.ALIVE, State.ASLEEP) else ""
        if text:
            state = State.ALIVE  # It sleeps now and then, as everyone does.
        frames = main_stack(text)
        place = place_of(frames) or kernel_function(ward.pid)
        standing = f"has not moved for {vigil.still:.1f} s"
        say(f"rank {ward.rank}", f"{standing}; {f'{state}, {place}' if not text else 'its stacks:'}".rstrip(", "))
        for line in text.splitlines():
            say(f"rank {ward.rank}", line)
        return Witness(
            worker=self._index,
            rank=ward.rank,
            step=ward.pulse.step,
            seconds=vigil.still,
            state=state,
            waits=bool(frames) and frames[0].waits,
            place=place[:LONGEST_PLACE],
            stack="\n".join(str(frame) for frame in frames)[:LONGEST_STACK],
        )
