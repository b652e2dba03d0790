"""Accepts connections, with limits on their total number and on the number per address.

Whoever connects costs memory from the first byte of the TLS handshake on, long before it says who it is. So a connection too
many is closed before that. Knows nothing about what is said on them.
"""

import asyncio
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass

import structlog

log = structlog.get_logger(__name__)

_BACKLOG = 128
_HANDSHAKE_SECONDS = 10.0
_BREATH = 1.0


@dataclass(frozen=True)
class Room:
    """Limits on the number of connections.

    Attributes:
        overall: Open at once, each of which takes 50 KiB.
        per_address: Of these, from one address. Where a node's pods are seen under its address, they share this.
    """

    overall: int = 1024
    per_address: int = 128


class Listener:
    """Listens on a port.

    Args:
        serve: Makes the protocol that serves one connection.
        context: What TLS is done with.
        room: How many connections there is room for.
        refused: Told of every connection that is one too many.
    """

    def __init__(
        self,
        serve: Callable[[], asyncio.BaseProtocol],
        context: ssl.SSLContext,
        room: Room,
        refused: Callable[[], None],
    ) -> None:
        self._serve = serve
        self._context = context
        self._room = room
        self._refused = refused
        self._open: dict[str, list[socket.socket]] = {}
        self._greeting: set[asyncio.Task[None]] = set()
        self._accepting: asyncio.Task[None] | None = None

    def start(self, host: str | None, port: int) -> int:
        """Listen, without a host on all addresses, and return the port."""
        listening = _bind(host, port)
        self._accepting = asyncio.create_task(self._accept_forever(listening), name="accept reports")
        bound: int = listening.getsockname()[1]
        return bound

    async def close(self) -> None:
        """Stop listening. Connections that are served already go on."""
        tasks = {*self._greeting, *([] if self._accepting is None else [self._accepting])}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _accept_forever(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        with listening:
            while True:
                try:
                    connection, address = await loop.sock_accept(listening)
                except OSError as error:  # usually because the limit on open files is reached
                    log.warning("a connection cannot be accepted", error=str(error))
                    await asyncio.sleep(_BREATH)
                    continue
                if not self._has_room(address[0]):
                    connection.close()
                    self._refused()
                    continue
                self._open.setdefault(address[0], []).append(connection)
                greeting = asyncio.create_task(self._greet(connection))
                self._greeting.add(greeting)
                greeting.add_done_callback(self._greeting.discard)

    async def _greet(self, connection: socket.socket) -> None:
        """Do the TLS handshake and hand the connection over. If the handshake fails, close it."""
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                self._serve, connection, ssl=self._context, ssl_handshake_timeout=_HANDSHAKE_SECONDS
            )
        except OSError as error:
            log.debug("no connection was made", error=str(error))
            connection.close()

    def _has_room(self, address: str) -> bool:
        self._forget_closed(address)
        if self._total() >= self._room.overall:
            for other in list(self._open):
                self._forget_closed(other)
        return self._total() < self._room.overall and len(self._open.get(address, ())) < self._room.per_address

    def _total(self) -> int:
        return sum(len(connections) for connections in self._open.values())

    def _forget_closed(self, address: str) -> None:
        still_open = [connection for connection in self._open.pop(address, ()) if connection.fileno() >= 0]
        if still_open:
            self._open[address] = still_open


def _bind(host: str | None, port: int) -> socket.socket:
    family = socket.AF_INET6 if host is not None and ":" in host else socket.AF_INET
    both = host is None and socket.has_dualstack_ipv6()
    listening = socket.create_server(
        (host or "", port),
        family=socket.AF_INET6 if both else family,
        backlog=_BACKLOG,
        dualstack_ipv6=both,
    )
    listening.setblocking(False)
    return listening
