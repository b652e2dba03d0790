"""Starts, watches and stops the training processes of one worker.

Processes are forked from the agent and inherit its imports of torch, which saves several seconds per start and restart.
This is safe because the agent never computes with torch, so there is no thread pool or device context that a child
could inherit in a broken state. Where fork is not available or not safe (macOS), processes are spawned.
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
        """Start one process per tuple of arguments, named `<name>-<index>`."""
        context = _context()
        self._processes: list[BaseProcess] = []
        # Block SIGTERM until the child has set its own handlers: the agent's handler would swallow it in the child.
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
        """Process ids by local rank."""
        return {number: process.pid or 0 for number, process in enumerate(self._processes)}

    def ended(self) -> dict[int, int]:
        """Return the exit codes of ended processes by local rank; 128 + n if signal n ended the process."""
        codes = {number: process.exitcode for number, process in enumerate(self._processes)}
        return {number: code if code >= 0 else 128 - code for number, code in codes.items() if code is not None}

    def running(self) -> bool:
        """Whether any process is still running."""
        return len(self.ended()) < len(self._processes)

    def wait(self, seconds: float) -> bool:
        """Wait until all processes have ended; return False if some are still running after `seconds`."""
        deadline = time.monotonic() + seconds
        for process in self._processes:
            process.join(max(0.0, deadline - time.monotonic()))
        return not self.running()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to every running process."""
        for process in self._processes:
            if process.exitcode is None and process.pid:
                os.kill(process.pid, number)

    def stop(self, patience: float) -> None:
        """Send SIGTERM to all processes, and SIGKILL to those still running after `patience` seconds."""
        self.signal(signal.SIGTERM)
        if not self.wait(patience):
            self.signal(signal.SIGKILL)
            self.wait(patience)


def _context() -> ForkContext | SpawnContext:
    if sys.platform == "linux":
        return multiprocessing.get_context("fork")
    return multiprocessing.get_context("spawn")


def _begin(entry: Callable[..., None], values: tuple[Any, ...]) -> None:
    """Set up a forked process: it ends with the agent, and does not keep the agent's signal handlers."""
    _register_with_kernel()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C also reaches the agent, which handles it.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    gc.freeze()  # Collections must not traverse imported objects, which would unshare their pages.
    entry(*values)


def _register_with_kernel() -> None:
    """Set the process name, and have the kernel end this process when the agent dies, so that none is left behind."""
    if sys.platform != "linux":
        return
    import ctypes  # noqa: PLC0415 - only needed on Linux

    libc = ctypes.CDLL(None)
    libc.prctl(_PR_SET_NAME, multiprocessing.current_process().name.encode())
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    agent = multiprocessing.parent_process()
    if agent is not None and agent.pid != os.getppid():
        os.kill(os.getpid(), signal.SIGKILL)
