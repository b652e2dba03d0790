"""The key-value store through which a job's processes find each other, and the process that serves it on worker 0.

torch's store server asks DNS for the name of everyone who connects, in a thread of its own. The agent forks its ranks, and
a fork at such a moment would leave the child with the resolver's lock held for ever by a thread that it does not have. So
the server gets a process to itself, and the agent stays without threads.
"""

import multiprocessing
import os
import signal
from contextlib import suppress
from datetime import timedelta
from multiprocessing.connection import Connection
from typing import Final

from torch.distributed import PrefixStore, Store, TCPStore  # type: ignore[attr-defined]

from trainwright_worker.distributed.processes import Processes

STORE_TIMEOUT: Final = timedelta(seconds=15)
"""After so long without an answer the store's node is taken for lost. A closed connection is noticed at once."""
LOCAL_HOST: Final = "localhost"


class StoreServer:
    """The process that serves the store; it ends with the agent that started it."""

    def __init__(self, port: int) -> None:
        """Return when the store listens.

        Raises:
            OSError: It cannot listen on this port.
        """
        ready, tell = multiprocessing.Pipe(duplex=False)
        self._process = Processes(_serve, [(port, tell)], "store")
        tell.close()
        listening = False
        with ready, suppress(EOFError):
            listening = ready.poll(STORE_TIMEOUT.total_seconds()) and ready.recv()
        if not listening:
            self.close()
            raise OSError(f"cannot listen on port {port}")

    def close(self) -> None:
        """End it. It does not heed SIGTERM: whoever stops a worker's processes one by one must not take the store first."""
        self._process.signal(signal.SIGKILL)
        self._process.wait(STORE_TIMEOUT.total_seconds())


def _serve(port: int, tell: "Connection[bool, bool]") -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    # Nobody reads the names that the server asks DNS for; it should not wait long for a DNS that is down.
    os.environ["RES_OPTIONS"] = "timeout:1 attempts:1"
    store = _open(LOCAL_HOST, port, serve=True)
    tell.send(True)
    tell.close()
    while store is not None:
        signal.pause()


def connect_store(host: str, port: int) -> Store:
    """Return a connection to the store.

    Raises:
        RuntimeError: There is none.
    """
    return _open(host, port, serve=False)


def _open(host: str, port: int, *, serve: bool) -> Store:
    # Some distributions build torch without libuv; their users set torch's own USE_LIBUV=0, which is honoured here.
    libuv = os.environ.get("USE_LIBUV", "1") == "1"
    return TCPStore(host, port, is_master=serve, timeout=STORE_TIMEOUT, wait_for_workers=False, use_libuv=libuv)


def round_store(store: Store, uid: str, number: int) -> Store:
    """Return the part of the store that belongs to one round, so that nothing of an earlier launch is ever read."""
    return PrefixStore(f"trainwright/{uid}/launch/{number}", store)
