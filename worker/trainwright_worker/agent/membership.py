"""Which workers take part in a round. Worker 0 decides that for all.

Worker 0 waits for the workers that it expects: all of them at first, later the members of the round before and those that
came since. If some do not come and `spec.workers.minCount` allows it, the round begins without them. Workers that come later
are admitted by opening another round, before which all save. If admitted workers are lost again and again, worker 0 waits
longer before it admits the next.
"""

import time
from typing import Final

from torch.distributed import Store  # type: ignore[attr-defined]

from trainwright.api.worker import WorkerConfig
from trainwright_worker.agent.heartbeats import WorkerHeartbeats
from trainwright_worker.agent.rounds import Rounds

SETTLING: Final = 1 / 3
"""Shortest duration of a round before newcomers are admitted, as a share of the patience. It doubles with every loss that
follows soon after another."""
LONGEST_SETTLING: Final = 20


class RoundMembership:
    """The members of the current round and of the next, as worker 0 decides them."""

    def __init__(self, config: WorkerConfig, keys: Store) -> None:
        """Expect all workers.

        Args:
            config: The worker's config.
            keys: The job's part of the store.
        """
        workers = config.spec.workers
        self._count = workers.count
        self._least = workers.min_count or workers.count
        self._patience = config.rendezvous_patience_seconds
        self._grace = workers.termination_grace_period_seconds
        self._keys = keys
        self._rounds = Rounds(keys, workers.count)
        self._heartbeats = WorkerHeartbeats()
        self._members: tuple[int, ...] = ()
        self._expected = frozenset(range(workers.count))
        self._formed = 0.0
        self._losses = 0

    def expect(self) -> None:
        """Begin the next round: expect the members of the current one and those that wait to be admitted."""
        if self._members:
            self._expected = frozenset((*self._members, *self.newcomers))

    def complete(self, target: int, began: float, *, growing: bool) -> None:
        """Record the members of a round, unless it should still wait for others.

        Args:
            target: The round.
            began: Since when it is waited for, on the monotonic clock.
            growing: Whether the other members may still be saving.
        """
        joined = self._rounds.joined(target)
        now = time.monotonic()
        late = now > began + self._patience + growing * self._grace
        if joined < self._least or (joined < min(self._count, len(self._expected)) and not late):
            return
        present = self._rounds.present(target)
        if late:
            present = [index for index in present if not self._heartbeats.silent(index, now)]
        if len(present) >= self._least and (late or self._expected.issubset(present)):
            self._rounds.complete(target, present)

    def settle(self, members: tuple[int, ...]) -> None:
        """Begin a round with these members."""
        now = time.monotonic()
        if len(members) < len(self._members):
            self._losses = self._losses + 1 if now - self._formed < LONGEST_SETTLING * self._patience else 1
        self._members, self._formed = members, now
        self._heartbeats.forget()

    def read_heartbeats(self) -> None:
        """Read the heartbeats of all other workers."""
        self._heartbeats.read(self._keys, range(1, self._count), time.monotonic())

    def open_next_if_due(self, current: int) -> bool:
        """Open the round after the current one if a member is lost, or if it is time to admit others.

        Returns:
            Whether it was opened only to admit others.
        """
        now = time.monotonic()
        if any(self._heartbeats.silent(index, now) for index in self._members):
            self._rounds.open_after(current)
        elif self.newcomers and now - self._formed >= self.settling:
            self._rounds.open_after(current, growing=True)
            return True
        return False

    @property
    def newcomers(self) -> list[int]:
        """The workers that send heartbeats and wait to be admitted."""
        if self._least == self._count:
            return []
        now = time.monotonic()
        return [i for i in range(self._count) if i not in self._members and self._heartbeats.alive(i, now)]

    @property
    def settling(self) -> float:
        """How many seconds the current round lasts at least before others are admitted."""
        return self._patience * min(SETTLING * 2.0**self._losses, LONGEST_SETTLING)
