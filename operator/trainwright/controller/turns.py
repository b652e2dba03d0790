"""Fairness between namespaces: groups take turns, so that what one of them asks for cannot delay the others for long.

Used for reconcile passes and for requests that change the cluster. Knows nothing of jobs.
"""

import asyncio
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Callable, Hashable
from contextlib import asynccontextmanager
from typing import Generic, TypeVar

Item = TypeVar("Item")


class Turns(Generic[Item]):
    """Queues of items, one per group. The next item belongs to the group that was served longest ago."""

    def __init__(self) -> None:
        self._queues: OrderedDict[Hashable, deque[Item]] = OrderedDict()

    def __len__(self) -> int:
        """Return the number of items."""
        return sum(map(len, self._queues.values()))

    def add(self, group: Hashable, item: Item) -> None:
        """Add an item behind those of its group."""
        self._queues.setdefault(group, deque()).append(item)

    def peek(self, passes: Callable[[Hashable], bool] = lambda _: False) -> Item | None:
        """Return the next item, or None if there is none. Groups for which `passes` is true give up their turn."""
        return next((queue[0] for group, queue in self._queues.items() if not passes(group)), None)

    def take(self, passes: Callable[[Hashable], bool] = lambda _: False) -> Item | None:
        """Remove and return the item that `peek` returns."""
        for group, queue in self._queues.items():
            if not passes(group):
                item = queue.popleft()
                if queue:
                    self._queues.move_to_end(group)
                else:
                    del self._queues[group]
                return item
        return None


class Slots:
    """A semaphore whose waiters take turns by group.

    Args:
        count: How many may hold a slot at once.
    """

    def __init__(self, count: int) -> None:
        self._free = count
        self._waiting: Turns[asyncio.Future[None]] = Turns()

    @asynccontextmanager
    async def hold(self, group: Hashable) -> AsyncIterator[None]:
        """Wait for a slot and hold it."""
        await self._acquire(group)
        try:
            yield
        finally:
            self._release()

    async def _acquire(self, group: Hashable) -> None:
        if self._free:
            self._free -= 1
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.add(group, turn)
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():  # The slot was handed over in the same moment.
                self._release()
            raise

    def _release(self) -> None:
        """Hand the slot to the next waiter that has not been cancelled."""
        while (turn := self._waiting.take()) is not None:
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1
