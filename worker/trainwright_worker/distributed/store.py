"""The key-value store for the rendezvous of a job's processes, and the process that serves it on worker 0.

torch's store server looks up the name of every client in DNS, in its own thread. A fork of the agent during a look-up
would leave the child with the resolver's lock held forever, because the thread that holds it does not exist there. So
the server runs in a separate process, and the agent has no threads.
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
"""Time without an answer after which the store's node is considered lost. A closed connection is detected at once."""
LOCAL_HOST: Final = "localhost"


class StoreServer:
    """The process that serves the store; it ends with the agent."""

    def __init__(self, port: int) -> None:
        """Start the server, and return when it is listening.

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
        """End the server. It ignores SIGTERM, so that it outlives the other processes of a stopping worker."""
        self._process.signal(signal.SIGKILL)
        self._process.wait(STORE_TIMEOUT.total_seconds())


def _serve(port: int, tell: "Connection[bool, bool]") -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    # The names that the server looks up are not used, so it should not wait long if DNS is down.
    os.environ["RES_OPTIONS"] = "timeout:1 attempts:1"
    store = _open(LOCAL_HOST, port, serve=True)
    tell.send(True)
    tell.close()
    while store is not None:
        signal.pause()


def connect_store(host: str, port: int) -> Store:
    """Return a connection to the store.

    Raises:
        RuntimeError: The store cannot be reached.
    """
    return _open(host, port, serve=False)


def _open(host: str, port: int, *, serve: bool) -> Store:
    # Some distributions build torch without libuv. Their users set USE_LIBUV=0, torch's own variable, which applies
    # here too.
    libuv = os.environ.get("USE_LIBUV", "1") == "1"
    return TCPStore(host, port, is_master=serve, timeout=STORE_TIMEOUT, wait_for_workers=False, use_libuv=libuv)


def round_store(store: Store, uid: str, number: int) -> Store:
    """Return the part of the store that belongs to one round, so that keys of earlier rounds are never read."""
    return PrefixStore(f"trainwright/{uid}/launch/{number}", store)
