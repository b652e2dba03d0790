"""How the workers of a job find each other: a rendezvous of fixed members, for torch's elastic agent.

Every worker joins numbered rounds that are kept in the TCPStore hosted by worker 0. A round is complete when each index
has joined it; then its training processes start. Whoever needs a new start (its processes failed, or it replaces a lost
worker) opens the next round; the others notice, stop their processes and join too. So survivors keep their pods.

Why not torch's own dynamic rendezvous: it numbers workers by host name and process id, while checkpoints need rank 0 on
worker 0; it compares clocks between nodes; it polls once a second, several times per restart; and it unpickles what any
pod that reaches the store has written. This one moves integers only.

Keys, all below the job's uid: `round` (the current round), `member/<round>/<index>` (who joined), `joined/<round>` (how
many), `attempt/<index>` (the newest pod of an index), `beat/<index>` (a counter that rises while a worker lives).
"""

import os
import socket
import time
from collections.abc import Callable
from typing import Final

from torch.distributed import PrefixStore, Store  # type: ignore[attr-defined]
from torch.distributed.elastic.rendezvous import RendezvousHandler, RendezvousInfo, RendezvousStoreInfo

from trainwright.api.worker import WorkerConfig
from trainwright_worker.agent.store import LOCAL_HOST, StoreServer, connect_store, round_store
from trainwright_worker.console import say
from trainwright_worker.errors import InfrastructureError

BEAT_SECONDS: Final = 1.0
LOST_AFTER_BEATS: Final = 15
"""A worker whose counter stands still for so many beats of worker 0's own clock is lost."""
WORD_SECONDS: Final = 10.0
LOOK_SECONDS_PER_WORKER: Final = 0.0005
_CONNECT_POLL_SECONDS: Final = 0.1


class RendezvousLostError(InfrastructureError):
    """The store on worker 0 cannot be reached (any more)."""


class StoppedError(Exception):
    """The worker was told to stop while it waited for others."""


class FixedRendezvous(RendezvousHandler):
    """The rendezvous as one worker sees it.

    Attributes:
        round: The round joined last; 0 before the first.
    """

    def __init__(self, config: WorkerConfig, index: int, attempt: int, host: str, stopping: Callable[[], bool]) -> None:
        """Prepare; nothing is contacted before the first join.

        Args:
            config: The worker's config.
            index: Index of this worker.
            attempt: Attempt that created this worker's pod.
            host: Host name of worker 0.
            stopping: Tells whether the worker should stop waiting and leave.
        """
        self.round = 0
        self._config = config
        self._index = index
        self._attempt = attempt
        self._leader = host
        self._stopping = stopping
        self._count = config.spec.workers.count
        self._store: Store | None = None
        self._server: StoreServer | None = None
        self._last_beat = 0.0
        self._next_look = 0.0
        self._beats = 0
        self._seen: dict[int, tuple[int, float]] = {}
        self._last_word = 0.0

    # -- what torch's agent calls ------------------------------------------------------------------------------------

    def get_backend(self) -> str:
        """Return the name of the kind of rendezvous."""
        return "trainwright-fixed"

    @property
    def use_agent_store(self) -> bool:
        """Training processes use the store of this rendezvous as well."""
        return True

    def next_rendezvous(self) -> RendezvousInfo:
        """Join the next round and wait until every worker has.

        Raises:
            RendezvousLostError: The store cannot be reached, or workers are missing after the timeout.
            StoppedError: The worker was told to stop.
        """
        deadline = time.monotonic() + self._config.rendezvous_timeout_seconds
        if self._store is None:
            self._store = self._connect(deadline)
        try:
            self._claim_index()
            while not self._join_round(deadline):
                pass
        except RuntimeError as error:
            raise self._lost(error) from error
        self._seen.clear()
        store = round_store(self._store, self._config.uid, self.round)
        where = RendezvousStoreInfo(self.host, self._config.rendezvous_port)
        return RendezvousInfo(store, self._index, self._count, where)

    def num_nodes_waiting(self) -> int:
        """Return 1 when a newer round was opened, which this worker must join; beats once a second on the way."""
        now = time.monotonic()
        if self._stopping() or self._store is None or self._count == 1 or now < self._next_look:
            return 0
        # A thousand workers that looked twenty times a second would keep worker 0's store busy with nothing else.
        self._next_look = now + self._count * LOOK_SECONDS_PER_WORKER
        try:
            if now - self._last_beat >= BEAT_SECONDS:
                self._beat()
            return int(self._current() > self.round)
        except RuntimeError as error:
            raise self._lost(error) from error

    def is_closed(self) -> bool:
        """Return False: the operator ends a job by deleting its pods, not by closing the rendezvous."""
        return False

    def set_closed(self) -> None:
        """Do nothing, for the same reason."""

    def get_run_id(self) -> str:
        """Return the uid of the job."""
        return self._config.uid

    def shutdown(self) -> bool:
        """Return True: there is nothing to release that the end of the process does not."""
        return True

    def close(self) -> None:
        """Stop serving the store, if this is worker 0; the last thing to do."""
        if self._server is not None:
            self._server.close()

    # -- the end of a round ------------------------------------------------------------------------------------------

    def leave(self, patience: float) -> None:
        """Say that this worker's processes have succeeded; worker 0 waits for the others, since it hosts the store.

        Args:
            patience: Longest wait, in seconds.
        """
        if self._store is None or self._count == 1:
            return
        key = f"left/{self.round}"
        try:
            self._keys.add(key, 1)
            deadline = time.monotonic() + patience
            while self._index == 0 and self._keys.add(key, 0) < self._count and time.monotonic() < deadline:
                time.sleep(0.02)
        except RuntimeError:
            return  # Worker 0 is gone, which it only is when it has succeeded: there is nobody left to tell.

    @property
    def host(self) -> str:
        """The host under which this worker reaches the store; worker 0 does not depend on its own DNS record."""
        return LOCAL_HOST if self._index == 0 else self._leader

    # -- steps -------------------------------------------------------------------------------------------------------

    @property
    def _keys(self) -> Store:
        if self._store is None:
            raise RuntimeError("the store is not connected")
        return PrefixStore(f"trainwright/{self._config.uid}", self._store)

    def _connect(self, deadline: float) -> Store:
        port = self._config.rendezvous_port
        failure = "no answer"
        while time.monotonic() < deadline:
            if self._stopping():
                raise StoppedError
            try:
                if self._index == 0:
                    self._server = StoreServer(port)
                else:
                    # A plain probe first: names and endpoints lag behind pods, and torch's own retries are noisy.
                    socket.create_connection((self.host, port), timeout=2).close()
                return connect_store(self.host, port)
            except (OSError, RuntimeError, ValueError) as error:
                failure = str(error).splitlines()[0]
                self._say_waiting(f"for worker 0 at {self.host}:{port}: {failure}")
                time.sleep(_CONNECT_POLL_SECONDS)
        raise RendezvousLostError(
            f"could not {'host' if self._index == 0 else 'reach'} the rendezvous at {self.host}:{port} within "
            f"{self._config.rendezvous_timeout_seconds} s: {failure}"
        )

    def _claim_index(self) -> None:
        """Make sure that of two pods with this index, one of them lingering, the newer attempt wins."""
        key = f"attempt/{self._index}"
        while (known := int(self._keys.compare_set(key, "", str(self._attempt)))) != self._attempt:
            if known > self._attempt:
                raise InfrastructureError(f"worker {self._index} was replaced by a pod of attempt {known}")
            self._keys.compare_set(key, str(known), str(self._attempt))

    def _join_round(self, deadline: float) -> bool:
        """Join the current or the next round; return False if a newer one was opened before it was complete."""
        target = max(self._current(), 1)
        if target <= self.round or not self._enter(target):
            # Taken by ourselves earlier or by the pod we replace: that round can never (again) be complete.
            self._open(target)
            return False
        self.round = target
        self._keys.add(f"joined/{target}", 1)
        pause = 0.02 + 0.0002 * self._count
        while self._keys.add(f"joined/{target}", 0) < self._count:
            if self._stopping():
                raise StoppedError
            if self._current() > target:
                return False
            if time.monotonic() > deadline:
                raise self._missing(target)
            if time.monotonic() - self._last_beat >= BEAT_SECONDS:
                self._beat()
                self._say_waiting(f"for worker {self._missing_from(target)} to join round {target}")
            time.sleep(pause)
        return True

    def _enter(self, target: int) -> bool:
        mine = f"{self._attempt}-{os.getpid()}-{time.monotonic_ns()}"
        held = self._keys.compare_set(f"member/{target}/{self._index}", "", mine)
        return bytes(held).decode() == mine

    def _current(self) -> int:
        return int(self._keys.compare_set("round", "", "1"))

    def _open(self, target: int) -> None:
        self._keys.compare_set("round", str(target), str(target + 1))

    def _beat(self) -> None:
        """Show that this worker lives; worker 0 opens a new round without those that no longer do."""
        self._last_beat = time.monotonic()
        self._beats += 1
        self._keys.set(f"beat/{self._index}", str(self._beats))
        if self._index != 0 or self._count == 1 or self.round == 0:
            return
        for index in range(1, self._count):
            key = f"beat/{index}"
            beats = int(self._keys.get(key)) if self._keys.check([key]) else 0
            known, since = self._seen.get(index, (-1, 0.0))
            if beats != known:
                self._seen[index] = (beats, self._last_beat)
            elif self._last_beat - since > LOST_AFTER_BEATS * BEAT_SECONDS and self._is_running():
                self._seen.clear()
                self._open(self.round)
                return

    def _is_running(self) -> bool:
        """Whether the current round is complete; a worker missing from an incomplete one is already waited for."""
        return self._keys.add(f"joined/{self.round}", 0) >= self._count and self._current() == self.round

    def _missing(self, target: int) -> RendezvousLostError:
        return RendezvousLostError(
            f"rendezvous of {self._count} workers: worker {self._missing_from(target)} did not come within "
            f"{self._config.rendezvous_timeout_seconds} s"
        )

    def _missing_from(self, target: int) -> str:
        missing = [str(i) for i in range(self._count) if not self._keys.check([f"member/{target}/{i}"])]
        return ", ".join(missing[:10]) + (f" and {len(missing) - 10} more" if len(missing) > 10 else "")  # noqa: PLR2004

    def _say_waiting(self, what: str) -> None:
        """Say what is waited for, but not before it takes long, and not too often."""
        now = time.monotonic()
        if self._last_word == 0.0:
            self._last_word = now
        elif now - self._last_word > WORD_SECONDS:
            self._last_word = now
            say(f"worker {self._index}", f"waiting {what}")

    def _lost(self, error: RuntimeError) -> RendezvousLostError:
        if isinstance(error, InfrastructureError):
            raise error
        return RendezvousLostError(f"lost the rendezvous at {self.host}: worker 0 is gone or unreachable")
