"""An event loop whose clock jumps to the next timer as soon as nothing else is left to do: an hour passes in no time."""

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class DeadlockError(Exception):
    """Everything waits for something that cannot happen any more."""


class _JumpingSelector(selectors.DefaultSelector):  # type: ignore[valid-type,misc]
    loop: "VirtualTimeLoop"

    def select(self, timeout=None):
        found = super().select(0)
        if not found:
            if timeout is None:
                raise DeadlockError
            self.loop.now += timeout
        return found


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """See the module."""

    def __init__(self) -> None:
        selector = _JumpingSelector()
        selector.loop = self
        self.now = 0.0
        super().__init__(selector)

    def time(self) -> float:
        return self.now


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine in virtual time."""
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(main)
