"""The interface between the agent, which starts, watches and restarts processes, and the program that they run.

Our trainer is one workload (`rank/workload.py`). The agent needs process ids, exit codes and signals; everything else is
optional.
"""

import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from trainwright.api.worker import Cause
from trainwright_worker.distributed.placement import RankPlacement
from trainwright_worker.reporting.pulse import Pulse


@dataclass(frozen=True)
class Launch:
    """One start of a worker's processes.

    Attributes:
        placements: The place of each process among all ranks, in the order of the local ranks.
        host: Host under which this worker reaches worker 0, which hosts the rendezvous store.
        scratch: Empty folder in which processes may write files for the agent: their post-mortems and the last report
            (`termination.py`), and their stacks (`stacks.py`). If a process writes no post-mortem, its exit code decides.
        pulses: The memory that each process may share with the agent, in the same order. A process that never writes to its
            pulse is not watched for hangs, unless it is stopped from outside.
        cause: Why the previous launch failed; None for the first launch of this pod.
    """

    placements: Sequence[RankPlacement]
    host: str
    scratch: Path
    pulses: Sequence[Pulse]
    cause: Cause | None


class RunningProcesses(Protocol):
    """The processes of one launch."""

    @property
    def pids(self) -> Mapping[int, int]:
        """Process id by local rank."""

    def ended(self) -> Mapping[int, int]:
        """Return the exit code, by local rank, of every process that has ended; 128 + n for an end by signal n."""

    def running(self) -> bool:
        """Return whether any process has not ended."""

    def wait(self, seconds: float) -> bool:
        """Wait until all have ended; return False if some have not after `seconds`."""

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to every process that still runs."""

    def stop(self, patience: float) -> None:
        """Ask all processes to end (SIGTERM), and kill those that have not ended after `patience` seconds."""


class Workload(Protocol):
    """The program of a worker's processes."""

    def preload(self) -> None:
        """Import what the processes need. Called once, since all processes forked later inherit the imports."""

    def start(self, launch: Launch) -> RunningProcesses:
        """Start one process per placement, and return without waiting for them."""
