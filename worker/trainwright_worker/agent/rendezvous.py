"""How the workers of a job find each other: a rendezvous of numbered workers, for torch's elastic agent.

Every worker joins numbered rounds that are kept in the TCPStore hosted by worker 0. When all have joined, worker 0 records the
members of the round, and their training processes start. A worker that needs a new start (its processes failed, or it replaces
a lost worker) opens the next round; the others notice, stop their processes and join too. So survivors keep their pods.

With `spec.workers.minCount` a round may begin with fewer, as worker 0 decides (`membership`). A worker that comes later waits
until worker 0 opens a round to admit it; the members save first, so that no step is lost.

Why not torch's own dynamic rendezvous: it numbers workers by host name and process id, while checkpoints need rank 0 on
worker 0; it compares clocks between nodes; it polls once a second, several times per restart; and it unpickles what any
pod that reaches the store has written. This one moves integers only.

All keys in the store lie below the job's uid: those of `rounds` and `heartbeats`, and `attempt/<index>`, the newest pod of an
index.
"""

import os
import socket
import time
from collections.abc import Callable, Collection
from typing import Final

from torch.distributed import PrefixStore, Store  # type: ignore[attr-defined]
from torch.distributed.elastic.rendezvous import RendezvousHandler, RendezvousInfo, RendezvousStoreInfo

from trainwright.api.worker import WorkerConfig
from trainwright_worker.agent.heartbeats import HEARTBEAT_SECONDS, WorkerHeartbeats
from trainwright_worker.agent.membership import RoundMembership
from trainwright_worker.agent.rounds import Rounds
from trainwright_worker.agent.wait_reporter import WaitReporter
from trainwright_worker.console import say
from trainwright_worker.distributed.store import LOCAL_HOST, StoreServer, connect_store, round_store
from trainwright_worker.errors import InfrastructureError

HOST_SECONDS: Final = 60.0
"""How long worker 0 tries to open the port of its store, in case an earlier process of its pod still holds it."""
WORD_SECONDS: Final = 10.0
LOOK_SECONDS_PER_WORKER: Final = 0.0005
_CONNECT_POLL_SECONDS: Final = 0.1


class RendezvousLostError(InfrastructureError):
    """The store on worker 0 cannot be reached (any more)."""


class StoppedError(Exception):
    """The worker was told to stop while it waited for others."""


class NotNeededError(Exception):
    """The others have finished the job while this worker waited to be admitted."""


class NumberedRendezvous(RendezvousHandler):
    """The rendezvous as one worker sees it.

    Attributes:
        round: The round joined last; 0 before the first.
        members: The workers that take part in the newest complete round, in the order of their ranks.
        growing: Whether the newest round was opened only to admit workers, so that there is time to save.
    """

    def __init__(
        self,
        config: WorkerConfig,
        index: int,
        attempt: int,
        host: str,
        stopping: Callable[[], bool],
        wait_reporter: WaitReporter | None = None,
    ) -> None:
        """Prepare; nothing is contacted before the first join.

        Args:
            config: The worker's config.
            index: Index of this worker.
            attempt: Attempt that created this worker's pod.
            host: Host name of worker 0.
            stopping: Returns whether the worker should stop waiting and leave.
            wait_reporter: Reports long waits to the operator.
        """
        self.round = 0
        self.members: tuple[int, ...] = ()
        self.growing = False
        self._config = config
        self._index = index
        self._attempt = attempt
        self._leader = host
        self._stopping = stopping
        self._wait_reporter = wait_reporter or WaitReporter(config, index, attempt)
        self._count = config.spec.workers.count
        self._store: Store | None = None
        self._server: StoreServer | None = None
        self._last_heartbeat = 0.0
        self._next_look = 0.0
        self._heartbeats = WorkerHeartbeats()
        self._membership: RoundMembership | None = None
        self._joining = True
        self._last_word = 0.0

    # -- what torch's agent calls ------------------------------------------------------------------------------------

    def get_backend(self) -> str:
        """Return the name of the kind of rendezvous."""
        return "trainwright-numbered"

    @property
    def use_agent_store(self) -> bool:
        """Training processes use the store of this rendezvous as well."""
        return True

    def next_rendezvous(self) -> RendezvousInfo:
        """Join the next round and wait until it is complete, for as long as that takes.

        A worker cannot know why others do not come: there may be no room for them yet. The operator does, and ends this pod
        when it has waited in vain.

        Raises:
            NotNeededError: The job was done before this worker was admitted.
            RendezvousLostError: The store cannot be hosted, or is lost.
            StoppedError: The worker was told to stop.
        """
        if self._store is None:
            self._store = self._connect()
            self._membership = RoundMembership(self._config, self.keys) if self._index == 0 else None
        try:
            self._claim_index()
            if self._membership is not None:
                self._membership.expect()
            self._joining = True
            while not self._join_round():
                pass
        except RuntimeError as error:
            raise self.lost(error) from error
        self._wait_reporter.end_wait()
        self._joining = self.growing = False
        if self._membership is not None:
            self._membership.settle(self.members)
        store = round_store(self._store, self._config.uid, self.round)
        where = RendezvousStoreInfo(self.host, self._config.rendezvous_port)
        return RendezvousInfo(store, self.members.index(self._index), len(self.members), where)

    def num_nodes_waiting(self) -> int:
        """Return 1 when a newer round was opened, which this worker must join. Also sends a heartbeat once a second."""
        now = time.monotonic()
        if self._stopping() or self._store is None or self._count == 1 or now < self._next_look:
            return 0
        # A thousand workers that looked twenty times a second would keep worker 0's store busy with nothing else.
        self._next_look = now + self._count * LOOK_SECONDS_PER_WORKER
        try:
            if now - self._last_heartbeat >= HEARTBEAT_SECONDS:
                self._send_heartbeat()
            newest = self._rounds.newest
            if newest > self.round:
                self.growing = self._rounds.grows(newest)
            return int(newest > self.round)
        except RuntimeError as error:
            raise self.lost(error) from error

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
        """Leave after this worker's processes have succeeded. Worker 0 waits for the others, since it hosts the store.

        Args:
            patience: Longest wait, in seconds.
        """
        if self._store is None or self._count == 1:
            return
        try:
            self._rounds.leave(self.round)
            if self._membership is None:
                return
            deadline = time.monotonic() + patience
            everyone = len(self.members) + len(self._membership.newcomers)
            while self._rounds.left(self.round) < everyone and time.monotonic() < deadline:
                time.sleep(0.02)
        except RuntimeError:
            return  # Worker 0 is gone, which it only is after it has succeeded.

    @property
    def host(self) -> str:
        """The host under which this worker reaches the store; worker 0 does not depend on its own DNS record."""
        return LOCAL_HOST if self._index == 0 else self._leader

    # -- steps -------------------------------------------------------------------------------------------------------

    @property
    def keys(self) -> Store:
        """The job's part of the store.

        Raises:
            RuntimeError: The store is not connected.
        """
        if self._store is None:
            raise RuntimeError("the store is not connected")
        return PrefixStore(f"trainwright/{self._config.uid}", self._store)

    @property
    def _rounds(self) -> Rounds:
        return Rounds(self.keys, self._count)

    def _connect(self) -> Store:
        port = self._config.rendezvous_port
        give_up = time.monotonic() + HOST_SECONDS
        while not self._stopping():
            try:
                if self._index == 0:
                    self._server = StoreServer(port)
                else:
                    # A plain probe first: names and endpoints lag behind pods, and torch's own retries are noisy.
                    socket.create_connection((self.host, port), timeout=2).close()
                return connect_store(self.host, port)
            except (OSError, RuntimeError, ValueError) as error:
                failure = str(error).splitlines()[0]
                if self._index == 0 and time.monotonic() > give_up:
                    raise RendezvousLostError(f"could not host the rendezvous at port {port}: {failure}") from error
                self._say_waiting(f"for worker 0 at {self.host}:{port}: {failure}")
                self._wait_reporter.report_unreachable(self.host, error)
                time.sleep(_CONNECT_POLL_SECONDS)
        raise StoppedError

    def _claim_index(self) -> None:
        """Make sure that of two pods with this index, one of them lingering, the newer attempt wins."""
        key = f"attempt/{self._index}"
        while (known := int(self.keys.compare_set(key, "", str(self._attempt)))) != self._attempt:
            if known > self._attempt:
                raise InfrastructureError(f"worker {self._index} was replaced by a pod of attempt {known}")
            self.keys.compare_set(key, str(known), str(self._attempt))

    def _join_round(self) -> bool:
        """Join the newest round or the next; return False if a newer one was opened before it was complete."""
        target = self._rounds.newest
        mine = f"{self._attempt}-{os.getpid()}-{time.monotonic_ns()}"
        entered = target > self.round and self._rounds.enter(target, self._index, mine)
        if not entered and self._index in (self._rounds.members(target) or (self._index,)):
            # Taken by ourselves earlier or by the pod we replace: that round can never (again) be complete.
            self._rounds.open_after(target)
            return False
        self.round = target
        return self._wait_for_members(target)

    def _wait_for_members(self, target: int) -> bool:
        """Wait until this worker is a member of a complete round; return False if a newer one was opened before."""
        rounds, began = self._rounds, time.monotonic()
        pause = 0.02 + 0.0002 * self._count
        while True:
            if self._membership is not None:
                self._membership.complete(target, began, growing=self.growing)
            members = rounds.members(target)
            if self._index in members:
                self.members = members
                return True
            if self._stopping():
                raise StoppedError
            if rounds.newest > target:
                return False
            if members:
                self._wait_to_be_admitted(target)
            elif self._send_heartbeat_if_due():
                present = self._present(target)
                self._say_waiting(f"for worker {self._missing_from(present)} to join round {target}")
                self._wait_reporter.report_missing(self._count, present, self._known_attempt)
            time.sleep(pause)

    def _present(self, target: int) -> list[int]:
        """Return who has joined a round. Worker 0 counts as missing to the others if it sends no heartbeat while it waits.

        Only worker 0 completes a round, so the others must be able to report that it does not.
        """
        present = self._rounds.present(target)
        if self._index != 0:
            now = time.monotonic()
            self._heartbeats.read(self.keys, [0], now)
            present = [index for index in present if index != 0 or not self._heartbeats.silent(0, now)]
        return present

    def _wait_to_be_admitted(self, target: int) -> None:
        if self._rounds.left(target) > 0:
            self._rounds.leave(target)
            raise NotNeededError
        if self._send_heartbeat_if_due():
            self._say_waiting(f"to be admitted: round {target} goes on without worker {self._index}")

    def _send_heartbeat_if_due(self) -> bool:
        """Send a heartbeat if it is time to; return whether it was."""
        if time.monotonic() - self._last_heartbeat < HEARTBEAT_SECONDS:
            return False
        self._send_heartbeat()
        return True

    def _send_heartbeat(self) -> None:
        """Show that this worker lives. Worker 0 also reads the heartbeats of the others and opens a round if one is due."""
        self._last_heartbeat = time.monotonic()
        self._heartbeats.send(self.keys, self._index)
        if self._membership is not None:
            self._membership.read_heartbeats()
            if not self._joining and self._rounds.newest == self.round:
                self.growing = self._membership.open_next_if_due(self.round)

    def _missing_from(self, present: Collection[int]) -> str:
        missing = [str(index) for index in range(self._count) if index not in present]
        return ", ".join(missing[:10]) + (f" and {len(missing) - 10} more" if len(missing) > 10 else "")  # noqa: PLR2004

    def _known_attempt(self, index: int) -> int:
        """Return the attempt of the newest pod of a worker that has ever joined; 0 if none has."""
        key = f"attempt/{index}"
        return int(self.keys.get(key)) if self.keys.check([key]) else 0

    def _say_waiting(self, what: str) -> None:
        """Log what is waited for once it takes long, and then from time to time."""
        now = time.monotonic()
        if self._last_word == 0.0:
            self._last_word = now
        elif now - self._last_word > WORD_SECONDS:
            self._last_word = now
            say(f"worker {self._index}", f"waiting {what}")

    def lost(self, error: RuntimeError) -> RendezvousLostError:
        """Return the error of a store that failed like this; raise `error` itself if it is no failure of the store."""
        if isinstance(error, InfrastructureError):
            raise error
        return RendezvousLostError(f"lost the rendezvous at {self.host}: worker 0 is gone or unreachable")
