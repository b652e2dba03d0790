"""The rounds of a job's rendezvous as they lie in the store: integers under a few keys. Nothing is decided here.

Keys: `round` (the newest round), `member/<round>/<index>` (who joined it), `joined/<round>` (how many), `members/<round>`
(who takes part, once it is complete), `grown/<round>` (whether it was opened to admit workers), `left/<round>` (how many
have done their work).
"""

from torch.distributed import Store  # type: ignore[attr-defined]


class Rounds:
    """All rounds of a job."""

    def __init__(self, keys: Store, count: int) -> None:
        """Look at the job's part of the store.

        Args:
            keys: The job's part of the store.
            count: Workers of the job.
        """
        self._keys = keys
        self._count = count

    @property
    def newest(self) -> int:
        """The newest round, from 1."""
        return int(self._keys.compare_set("round", "", "1"))

    def open_after(self, target: int, *, growing: bool = False) -> None:
        """Open the round after `target`, unless that was done already.

        Args:
            target: The newest round.
            growing: Whether it is opened only to admit workers that wait, so that the members may save first.
        """
        if growing:
            self._keys.set(f"grown/{target + 1}", "1")
        self._keys.compare_set("round", str(target), str(target + 1))

    def grows(self, target: int) -> bool:
        """Return whether a round was opened only to admit workers."""
        return self._keys.check([f"grown/{target}"])

    def enter(self, target: int, index: int, mine: str) -> bool:
        """Join a round; return False if someone of this index has before.

        Args:
            target: The round.
            index: The worker.
            mine: Tells this process from others of the same index.
        """
        held = self._keys.compare_set(f"member/{target}/{index}", "", mine)
        if bytes(held).decode() != mine:
            return False
        self._keys.add(f"joined/{target}", 1)
        return True

    def joined(self, target: int) -> int:
        """Return how many workers have joined a round."""
        return int(self._keys.add(f"joined/{target}", 0))

    def present(self, target: int) -> list[int]:
        """Return who has joined a round."""
        return [index for index in range(self._count) if self._keys.check([f"member/{target}/{index}"])]

    def complete(self, target: int, members: list[int]) -> None:
        """Record who takes part in a round. Only worker 0 calls this, once per round."""
        self._keys.set(f"members/{target}", ",".join(map(str, members)))

    def members(self, target: int) -> tuple[int, ...]:
        """Return who takes part in a round, in the order of their ranks; an empty tuple while it is incomplete."""
        key = f"members/{target}"
        if not self._keys.check([key]):
            return ()
        return tuple(int(index) for index in self._keys.get(key).decode().split(","))

    def leave(self, target: int) -> None:
        """Count a worker that has done its work, or has learnt that none is left for it."""
        self._keys.add(f"left/{target}", 1)

    def left(self, target: int) -> int:
        """Return how many workers have left a round."""
        return int(self._keys.add(f"left/{target}", 0))
