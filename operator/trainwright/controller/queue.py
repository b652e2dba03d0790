"""The work queue: keyed and deduplicating, with delays and backoff. It is independent of jobs.

A key is in one of three states: waiting (with the moment it is due), being processed, or both, when something happened
to it during its pass; then another pass follows. The same key is never processed twice at once.

Under load, deferrable keys yield to the others, so that started work is finished before new work begins.
"""

import asyncio
import heapq
import random
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

import structlog

from trainwright.controller.creation_backoff import backoff

Key = TypeVar("Key", bound=Hashable)
Entry = tuple[float, int, Key]
"""When a key is due, the number of the entry, and the key."""
_CLOSE = 0.001
"""A key that is due within this many seconds is due: a timer may fire a moment early, and must not be set again then."""
_PATIENCE = 30.0
"""Seconds for which a key that can wait lets those that became due after it go first."""
_SLACK = 64
"""Entries that may be superseded before the heaps are weeded, besides as many as there are keys."""

log = structlog.get_logger(__name__)


class RetryError(Exception):
    """A pass that wants to be repeated after the backoff, for a reason that is already known and said elsewhere."""


class KeyedQueue(Generic[Key]):
    """Runs `process(key)` for every key that was added.

    Args:
        process: One pass; returns after how many seconds the key wants another one, or None.
        limit: How many passes run at once.
        backoff_base: Seconds before a failed pass is repeated; doubles with every failure in a row.
        backoff_limit: The longest such wait.
        jitter: Returns a number from 0 to 1; the wait is between half and all of the computed backoff.
        failed: Told of every pass that failed unexpectedly.
        can_wait: Whether a key lets others go first for a while.
    """

    def __init__(
        self,
        process: Callable[[Key], Awaitable[float | None]],
        *,
        limit: int,
        backoff_base: float = 0.25,
        backoff_limit: float = 60.0,
        jitter: Callable[[], float] = random.random,
        failed: Callable[[Key, Exception], None] | None = None,
        can_wait: Callable[[Key], bool] = lambda _: False,
    ) -> None:
        self._process = process
        self._limit = limit
        self._backoff_base = backoff_base
        self._backoff_limit = backoff_limit
        self._jitter = jitter
        self._failed = failed
        self._due: dict[Key, float] = {}
        self._can_wait = can_wait
        self._first: list[Entry[Key]] = []
        self._later: list[Entry[Key]] = []
        self._sequence = 0
        self._running: dict[Key, asyncio.Task[None]] = {}
        self._failures: dict[Key, int] = {}
        self._wake = asyncio.Event()
        self._last_end = 0.0

    def add(self, key: Key, after: float = 0.0) -> None:
        """Have the key processed in `after` seconds, or earlier if it is due earlier already."""
        due = asyncio.get_running_loop().time() + max(0.0, after)
        if self._due.get(key, float("inf")) <= due:
            return
        self._due[key] = due
        # A key that is being processed waits outside the heaps until its pass is over.
        if key not in self._running:
            self._push(key, due)

    @property
    def depth(self) -> int:
        """How many keys are due but not processed yet."""
        now = asyncio.get_running_loop().time()
        return sum(due <= now for due in self._due.values())

    @property
    def oldest(self) -> float:
        """How many seconds the oldest due key has been waiting."""
        now = asyncio.get_running_loop().time()
        return max(0.0, now - min(self._due.values(), default=now))

    @property
    def stuck(self) -> float:
        """For how many seconds keys have been due without any pass coming to an end."""
        return min(self.oldest, asyncio.get_running_loop().time() - self._last_end)

    async def run(self, stop: asyncio.Event, drain_timeout: float = 15.0) -> None:
        """Process keys until `stop` is set, then let running passes end, for at most `drain_timeout` seconds.

        Being cancelled cancels the running passes too.
        """
        self._last_end = asyncio.get_running_loop().time()
        stopping = asyncio.create_task(stop.wait())
        try:
            while not stop.is_set():
                self._wake.clear()
                pause = self._start_due()
                waking = asyncio.create_task(self._wake.wait())
                await asyncio.wait({waking, stopping}, timeout=pause, return_when=asyncio.FIRST_COMPLETED)
                waking.cancel()
        except asyncio.CancelledError:
            drain_timeout = 0.0
            raise
        finally:
            stopping.cancel()
            await self._drain(drain_timeout)

    def _push(self, key: Key, due: float) -> None:
        self._sequence += 1
        heapq.heappush(self._later if self._can_wait(key) else self._first, (due, self._sequence, key))
        if len(self._first) + len(self._later) > 2 * len(self._due) + _SLACK:
            # Each pass may have left one that is due in days only, and leaves the heap by itself no sooner.
            for heap in (self._first, self._later):
                heap[:] = [entry for entry in heap if not self._superseded(entry)]
                heapq.heapify(heap)
        self._wake.set()

    def _start_due(self) -> float | None:
        """Start the passes that are due and return the seconds until the next one will be."""
        now = asyncio.get_running_loop().time()
        while heap := self._next(now):
            due, _, key = heap[0]
            if due > now + _CLOSE:
                return due - now
            if len(self._running) >= self._limit:
                return None
            heapq.heappop(heap)
            del self._due[key]
            self._running[key] = asyncio.create_task(self._pass(key), name=f"pass {key}")
        return None

    def _next(self, now: float) -> list[Entry[Key]]:
        """Return the heap whose first key is the next to be processed; an empty one if there is none."""
        first, later = self._first, self._later
        for heap in (first, later):
            while heap and self._superseded(heap[0]):
                heapq.heappop(heap)
        if not first or not later:
            return first or later
        patience = _PATIENCE if first[0][0] <= now + _CLOSE else 0.0
        return later if later[0][0] + patience < first[0][0] else first

    def _superseded(self, entry: Entry[Key]) -> bool:
        """Return whether the key is due at another moment by now, or waits for its pass to end."""
        due, _, key = entry
        return self._due.get(key) != due or key in self._running

    async def _pass(self, key: Key) -> None:
        after: float | None
        try:
            after = await self._process(key)
            self._failures.pop(key, None)
        except RetryError:
            after = self._backoff(key)
        except Exception as error:  # noqa: BLE001 - one failing pass must not affect the other jobs
            after = self._backoff(key)
            if self._failed is not None:
                self._failed(key, error)
        finally:
            del self._running[key]
            self._last_end = asyncio.get_running_loop().time()
            self._wake.set()
        due = self._due.get(key)
        if due is not None:
            self._push(key, due)
        if after is not None:
            # A moment that is merely close must not count as come, or the key would be processed again and again until then.
            self.add(key, max(after, 2 * _CLOSE) if after > 0 else 0.0)

    def _backoff(self, key: Key) -> float:
        failures = self._failures[key] = self._failures.get(key, 0) + 1
        return backoff(failures, self._backoff_base, self._backoff_limit, self._jitter)

    async def _drain(self, seconds: float) -> None:
        passes = set(self._running.values())
        if not passes:
            return
        _, late = await asyncio.wait(passes, timeout=seconds)
        if late:
            log.warning("reconcile passes did not end in time and are cancelled", passes=len(late))
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)
