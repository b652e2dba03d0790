"""Notices that a rank of this worker hangs, and finds out with the other workers which rank is at fault.

A rank hangs when it has not moved for longer than its own patience (see `reporting/pulse.py`), or when something has stopped
its process. Time counts only while this process itself runs, and starts anew whenever any rank of the job rests, since
ranks that wait for a peer that compiles or saves stand still for a good reason.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from trainwright.api.spec.health import HangSpec
from trainwright_worker.agent.hang_diagnosis import (
    LONGEST_LOCATION,
    LONGEST_STACK,
    HangDiagnosis,
    RankFinding,
    diagnose,
)
from trainwright_worker.agent.hang_investigation import HangInvestigation
from trainwright_worker.agent.stacks import (
    ProcessState,
    ask_for_stacks,
    kernel_function,
    location_of,
    main_stack,
    state_of,
)
from trainwright_worker.console import say
from trainwright_worker.reporting.pulse import Pulse

LOOK_SECONDS: Final = 1.0
"""Seconds between two checks that cost something: of the store, and of what the kernel says of a rank that stands still."""
LONGEST_GAP: Final = 0.5
"""Most seconds that count between two looks at the pulses; if more have passed, this process itself was stopped."""
STOPPED_SHARE: Final = 2 / 3
"""Share of `minSeconds` after which a rank whose process is stopped counts as hung. It is shorter because the kernel leaves no doubt."""
STALLED_SHARE: Final = 1 / 3
"""Share of its patience after which a rank that stands still is charged as stalled."""


@dataclass(frozen=True)
class WatchedRank:
    """A rank under watch.

    Attributes:
        rank: Its number.
        pid: Its process.
        pulse: Its sign of life.
    """

    rank: int
    pid: int
    pulse: Pulse


class IdleTimer:
    """Measures for how long one rank has stood still.

    Attributes:
        idle: Seconds without a move, while one could be expected.
        still: Seconds without a move, whether or not one could be.
        stopped: Seconds of these for which its process was stopped.
    """

    def __init__(self) -> None:
        self.idle = self.still = self.stopped = 0.0
        self._seen = (-1, 0.0)

    def observe(self, moves: int, patience: float, elapsed: float) -> None:
        """Take note of a rank's pulse, `elapsed` seconds after the previous one."""
        seen = (moves, patience)
        if seen != self._seen:
            self._seen = seen
            self.idle = self.still = self.stopped = 0.0
            return
        self.still += elapsed
        self.idle += elapsed if patience else 0.0

    def restart(self) -> None:
        """Count the idle time anew, since a rank that this one may wait for rests."""
        self.idle = 0.0


class Watchdog:
    """Watches the ranks of one worker during one launch."""

    def __init__(
        self, spec: HangSpec, index: int, ranks: Sequence[WatchedRank], scratch: Path, investigation: HangInvestigation
    ) -> None:
        """Begin to watch.

        Args:
            spec: From when on a rank that is stopped counts as hung, and whether to watch at all.
            index: This worker.
            ranks: Its ranks, in the order of their local ranks.
            scratch: Folder in which they leave their stacks.
            investigation: How the workers find the cause together.
        """
        self._spec = spec
        self._index = index
        self._ranks = ranks
        self._scratch = scratch
        self._investigation = investigation
        self._timers = [IdleTimer() for _ in ranks]
        self._looked = self._looked_around = time.monotonic()

    def look(self) -> HangDiagnosis | None:
        """Return why the job hangs, if it does; call this many times a second.

        Raises:
            RuntimeError: The store is gone.
        """
        if not self._spec.enabled:
            return None
        now = time.monotonic()
        elapsed, self._looked = min(now - self._looked, LONGEST_GAP), now
        for watched, timer in zip(self._ranks, self._timers, strict=True):
            timer.observe(watched.pulse.moves, watched.pulse.patience, elapsed)
            watched.pulse.stalled = 0 < watched.pulse.patience * STALLED_SHARE < timer.idle
        if any(not watched.pulse.patience for watched in self._ranks):
            self._restart_timers()
        opened = False
        if now - self._looked_around >= LOOK_SECONDS:
            opened = self._look_around(now)
        hung = self._find_hung()
        if not opened and hung is None:
            return None
        return self._investigate(hung)

    def _look_around(self, now: float) -> bool:
        """Check the store and the kernel; return whether another worker has noticed a hang."""
        since, self._looked_around = min(now - self._looked_around, 2 * LOOK_SECONDS), now
        for watched, timer in zip(self._ranks, self._timers, strict=True):
            stopped = timer.still >= LOOK_SECONDS and state_of(watched.pid) == ProcessState.STOPPED
            timer.stopped = timer.stopped + since if stopped else 0.0
        if any(not watched.pulse.patience for watched in self._ranks):
            self._investigation.report_resting()
        if self._investigation.someone_rested():
            self._restart_timers()
        return self._investigation.opened

    def _restart_timers(self) -> None:
        for timer in self._timers:
            timer.restart()

    def _find_hung(self) -> int | None:
        """Return the local rank that hangs, one whose process is stopped first; None if none does."""
        enough = STOPPED_SHARE * self._spec.min_seconds
        found = [number for number, timer in enumerate(self._timers) if timer.stopped >= enough]
        for number, (watched, timer) in enumerate(zip(self._ranks, self._timers, strict=True)):
            if 0 < watched.pulse.patience < timer.idle:
                found.append(number)
        return found[0] if found else None

    # -- finding out why ---------------------------------------------------------------------------------------------

    def _investigate(self, hung: int | None) -> HangDiagnosis:
        """Write the stacks of this worker's ranks to the log, and return what the workers find together.

        Args:
            hung: The local rank that hangs; None if another worker has noticed.
        """
        findings = [self._examine(number) for number in range(len(self._ranks))]
        noticed = findings[hung or 0]
        try:
            leads = hung is not None and self._investigation.open()
            self._investigation.add_findings(findings)
            diagnosis = self._investigation.conclude(noticed) if leads else self._investigation.await_diagnosis()
        except RuntimeError:
            diagnosis = None
        return diagnosis or diagnose(findings, self._investigation.others, noticed)

    def _examine(self, number: int) -> RankFinding:
        """Return what is found of one rank, and print its stacks."""
        watched, timer = self._ranks[number], self._timers[number]
        state = state_of(watched.pid)
        text = (
            ask_for_stacks(watched.pid, self._scratch, number)
            if state in (ProcessState.ALIVE, ProcessState.ASLEEP)
            else ""
        )
        if text:
            state = ProcessState.ALIVE  # It answers, so that it slept only for a moment.
        frames = main_stack(text)
        location = location_of(frames) or kernel_function(watched.pid)
        standing = f"has not moved for {timer.still:.1f} s"
        say(f"rank {watched.rank}", f"{standing}; {f'{state}, {location}' if not text else 'its stacks:'}".rstrip(", "))
        for line in text.splitlines():
            say(f"rank {watched.rank}", line)
        return RankFinding(
            worker=self._index,
            rank=watched.rank,
            step=watched.pulse.step,
            seconds=timer.still,
            state=state,
            waits=bool(frames) and frames[0].waits,
            location=location[:LONGEST_LOCATION],
            stack="\n".join(str(frame) for frame in frames)[:LONGEST_STACK],
        )
