"""The work queue: keyed and deduplicating, with delays and backoff. It is independent of jobs.

A key is in one of three states: waiting (with the moment it is due), being processed, or both, when something happened
to it during its pass; then another pass follows. The same key is never processed twice at once.

Keys that are due are processed in turns by group, so one group with many keys does not delay the others. Under load, deferrable
keys yield to the others, so that started work is finished before new work begins.
"""

import asyncio
import heapq
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

import structlog

from trainwright.controller.creation_backoff import backoff
from trainwright.controller.turns import Turns

Key = TypeVar("Key", bound=Hashable)
Entry = tuple[float, int, Key]
"""When a key is due, the number of the entry, and the key."""
_CLOSE = 0.001
"""A key that is due within this many seconds is due: a timer may fire a moment early, and must not be set again then."""
_PATIENCE = 30.0
"""Seconds for which a key that can wait lets those that became due after it go first."""
_SLACK = 64
"""Entries that may be superseded before the heap is weeded, besides as many as there are keys."""
_KEPT_FREE = 0.25
"""Fraction of the passes that one group leaves to others. All of its passes may be slow, and others must find a free one."""

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
        group: The group of a key. Groups take turns.
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
        group: Callable[[Key], Hashable] = lambda _: None,
    ) -> None:
        self._process = process
        self._limit = limit
        self._backoff_base = backoff_base
        self._backoff_limit = backoff_limit
        self._jitter = jitter
        self._failed = failed
        self._due: dict[Key, float] = {}
        self._can_wait = can_wait
        self._group = group
        self._share = limit - int(limit * _KEPT_FREE)
        self._timers: list[Entry[Key]] = []
        self._ready: set[Key] = set()
        self._first: Turns[tuple[float, Key]] = Turns()
        self._later: Turns[tuple[float, Key]] = Turns()
        self._sequence = 0
        self._running: dict[Key, asyncio.Task[None]] = {}
        self._passes: Counter[Hashable] = Counter()
        self._failures: dict[Key, int] = {}
        self._wake = asyncio.Event()
        self._last_end = 0.0

    def add(self, key: Key, after: float = 0.0) -> None:
        """Have the key processed in `after` seconds, or earlier if it is due earlier already."""
        due = asyncio.get_running_loop().time() + max(0.0, after)
        if key in self._ready or self._due.get(key, float("inf")) <= due:
            return
        self._due[key] = due
        # A key that is being processed waits outside the heap until its pass is over.
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
        heapq.heappush(self._timers, (due, self._sequence, key))
        if len(self._timers) > 2 * len(self._due) + _SLACK:
            # Each pass may have left one that is due in days only, and leaves the heap by itself no sooner.
            self._timers[:] = [entry for entry in self._timers if not self._superseded(entry)]
            heapq.heapify(self._timers)
        self._wake.set()

    def _start_due(self) -> float | None:
        """Start the passes that are due and return the seconds until the next key becomes due."""
        now = asyncio.get_running_loop().time()
        self._collect_due(now)
        while len(self._running) < self._limit and (ready := self._next_ready()) is not None:
            key = ready[1]
            del self._due[key]
            self._ready.remove(key)
            self._count(key, 1)
            self._running[key] = asyncio.create_task(self._pass(key), name=f"pass {key}")
        return self._timers[0][0] - now if self._timers else None

    def _collect_due(self, now: float) -> None:
        """Move the keys that are due from the heap to the queues of their groups."""
        while self._timers:
            due, _, key = self._timers[0]
            if not self._superseded(self._timers[0]):
                if due > now + _CLOSE:
                    return
                self._ready.add(key)
                (self._later if self._can_wait(key) else self._first).add(self._group(key), (due, key))
            heapq.heappop(self._timers)

    def _next_ready(self) -> tuple[float, Key] | None:
        """Remove and return the next key to be processed, with the moment since when it is due."""
        first, later = self._first.peek(self._has_its_share), self._later.peek(self._has_its_share)
        if later is not None and (first is None or later[0] + _PATIENCE < first[0]):
            return self._later.take(self._has_its_share)
        return self._first.take(self._has_its_share)

    def _count(self, key: Key, change: int) -> None:
        """Count the passes of the key's group that are running."""
        group = self._group(key)
        self._passes[group] += change
        if not self._passes[group]:
            del self._passes[group]

    def _has_its_share(self, group: Hashable) -> bool:
        return self._passes[group] >= self._share

    def _superseded(self, entry: Entry[Key]) -> bool:
        """Return whether the key is due at another moment by now, or is due already, or waits for its pass to end."""
        due, _, key = entry
        return self._due.get(key) != due or key in self._ready or key in self._running

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
            self._count(key, -1)
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
