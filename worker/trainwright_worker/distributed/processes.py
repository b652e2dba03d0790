"""The training processes of one worker: started by fork, watched, stopped.

The agent has imported torch before it starts them, and they inherit it: on a typical machine that saves several seconds
per start and per restart. It is safe because the agent never computes with torch, so no thread pool or device context
exists that a child could inherit in a broken state. Where fork is not available (or not sound, as on macOS) processes
are spawned.
"""

import gc
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from multiprocessing.context import ForkContext, SpawnContext
from multiprocessing.process import BaseProcess
from typing import Any, Final

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_NAME: Final = 15


class Processes:
    """The processes of one launch, in the order of their local ranks."""

    def __init__(self, entry: Callable[..., None], arguments: Sequence[tuple[Any, ...]], name: str = "rank") -> None:
        """Start one process per tuple of arguments, called by `name` and its number."""
        context = _context()
        self._processes: list[BaseProcess] = []
        # Held back until the child has put its own handlers in place: the agent's would swallow it there.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        try:
            for number, values in enumerate(arguments):
                process = context.Process(target=_begin, args=(entry, values), name=f"{name}-{number}")
                process.start()
                self._processes.append(process)
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})

    @property
    def pids(self) -> dict[int, int]:
        """Process id by local rank."""
        return {number: process.pid or 0 for number, process in enumerate(self._processes)}

    def ended(self) -> dict[int, int]:
        """Return the exit code, by local rank, of every process that has ended; 128 + n for an end by signal n."""
        codes = {number: process.exitcode for number, process in enumerate(self._processes)}
        return {number: code if code >= 0 else 128 - code for number, code in codes.items() if code is not None}

    def running(self) -> bool:
        """Whether any process has not ended."""
        return len(self.ended()) < len(self._processes)

    def wait(self, seconds: float) -> bool:
        """Wait until all have ended; return False if some have not after `seconds`."""
        deadline = time.monotonic() + seconds
        for process in self._processes:
            process.join(max(0.0, deadline - time.monotonic()))
        return not self.running()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to every process that still runs."""
        for process in self._processes:
            if process.exitcode is None and process.pid:
                os.kill(process.pid, number)

    def stop(self, patience: float) -> None:
        """Ask all to end, and after `patience` seconds make them."""
        self.signal(signal.SIGTERM)
        if not self.wait(patience):
            self.signal(signal.SIGKILL)
            self.wait(patience)


def _context() -> ForkContext | SpawnContext:
    if sys.platform == "linux":
        return multiprocessing.get_context("fork")
    return multiprocessing.get_context("spawn")


def _begin(entry: Callable[..., None], values: tuple[Any, ...]) -> None:
    """Turn a fork of the agent into a process of its own: it dies with the agent and forgets its signal handlers."""
    _settle_with_kernel()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the agent too, and it decides.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    gc.freeze()  # What the agent has imported stays for good: no collection need look through it, or unshare its pages.
    entry(*values)


def _settle_with_kernel() -> None:
    """Have the kernel know this process by its name, and end it when the agent dies, so that none is left behind."""
    if sys.platform != "linux":
        return
    import ctypes  # noqa: PLC0415 - needed on Linux alone

    libc = ctypes.CDLL(None)
    libc.prctl(_PR_SET_NAME, multiprocessing.current_process().name.encode())
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    agent = multiprocessing.parent_process()
    if agent is not None and agent.pid != os.getppid():
        os.kill(os.getpid(), signal.SIGKILL)
