"""Reports of a worker that waits for others, before there is a rank that could report.

Looking up a name, or connecting to an endpoint that is gone, may take many seconds, during which the worker must still notice
that the others have come. So a process of its own sends each report and ends. It is no thread, because the agent forks, and a
process that forks should have none.
"""

import socket
import time
from collections.abc import Callable, Collection
from typing import Final

from trainwright.api.worker import Absentee, ReportsEndpoint, Waiting, WorkerConfig, WorkerPhase, WorkerReport
from trainwright_worker.distributed.processes import Processes
from trainwright_worker.reporting.client import Client

FIRST_SECONDS: Final = 5.0
"""Shorter waits are not reported."""
AGAIN_SECONDS: Final = 10.0
MEMBER_AGAIN_SECONDS: Final = 30.0
"""Longer than for worker 0, since all other workers may report the same."""
MOST_ABSENTEES: Final = 32


class WaitReporter:
    """Reports a wait once it takes long, and then from time to time."""

    def __init__(self, config: WorkerConfig, index: int, attempt: int) -> None:
        """Begin without a wait.

        Args:
            config: The worker's config.
            index: This worker.
            attempt: Attempt that created its pod.
        """
        self._config = config
        self._index = index
        self._attempt = attempt
        self._again = AGAIN_SECONDS if index == 0 else MEMBER_AGAIN_SECONDS
        self._since: float | None = None
        self._next = 0.0
        self._sending: Processes | None = None

    def report_unreachable(self, host: str, error: Exception) -> None:
        """Report that worker 0 cannot be reached. Call this and `report_missing` as often as you like while a wait lasts."""
        self._report(f"cannot reach worker 0 at {host}: {_in_words(error)}", None)

    def report_missing(self, wanted: int, present: Collection[int], attempt_of: Callable[[int], int]) -> None:
        """Report which workers are missing at the rendezvous. Worker 0 does so for all, unless worker 0 itself is missing.

        Args:
            wanted: Number of workers that the round needs, present ones included.
            present: The workers that are present.
            attempt_of: Returns the attempt of the newest pod of a worker that has ever joined; 0 if none has.
        """
        missing = [index for index in range(wanted) if index not in present]
        if self._index != 0 and 0 not in missing:
            return
        absentees = [Absentee(worker=index, attempt=attempt_of(index)) for index in missing[:MOST_ABSENTEES]]
        self._report("", Waiting(joined=len(present), wanted=wanted, missing=absentees))

    def _report(self, message: str, waiting: Waiting | None) -> None:
        now = time.monotonic()
        if self._since is None:
            self._since, self._next = now, now + FIRST_SECONDS
        if self._config.reports is None or now < self._next:
            return
        if self._sending is not None:
            self._sending.stop(0.0)
        self._next = now + self._again
        if waiting is not None:
            waiting = waiting.changed(seconds=round(now - self._since, 1))
        report = WorkerReport(
            uid=self._config.uid,
            attempt=self._attempt,
            launch="rendezvous",
            sequence=int(time.time() * 1000),
            phase=WorkerPhase.RENDEZVOUS,
            message=message[:1024],
            waiting=waiting,
        )
        self._sending = Processes(_send, [(self._config.reports, report)], "wait-report")

    def end_wait(self) -> None:
        """End the wait, and stop a report that is still being sent."""
        self._since = None
        if self._sending is not None:
            self._sending.stop(0.0)
            self._sending = None


def _send(endpoint: ReportsEndpoint, report: WorkerReport) -> None:
    Client(endpoint, "worker").post(report)


def _in_words(error: Exception) -> str:
    """Return why worker 0 cannot be reached, in words for people."""
    if isinstance(error, socket.gaierror):
        return f"its name is not known (DNS: {error.strerror})"
    if isinstance(error, ConnectionRefusedError):
        return "it does not listen (connection refused)"
    if isinstance(error, TimeoutError):
        return "no answer (a NetworkPolicy, or a node that is cut off)"
    return str(error).splitlines()[0] if str(error) else type(error).__name__
