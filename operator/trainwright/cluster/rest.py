"""Requests to an API server with plain dicts, and the one place where its errors become those of the port.

How to get in is kopf's knowledge, as for the watches. The official client is not used: importing it alone takes 15 MiB.
"""

import asyncio
import json
from collections.abc import Callable, Mapping
from typing import Any, Self
from urllib.parse import urlencode

import aiohttp
import kopf
import yaml

from trainwright.cluster.port import (
    AlreadyExistsError,
    ClusterError,
    ConflictError,
    Manifest,
    NotFoundError,
    RejectedError,
)

_TIMEOUT = aiohttp.ClientTimeout(total=30, sock_connect=10)
_UNAUTHORIZED = 401
_REJECTIONS = frozenset({400, 403, 405, 413, 415, 422})

Counter = Callable[[str, str, str], None]
"""Told of every request: verb, resource, status code."""


def login() -> kopf.ConnectionInfo | None:
    """Return how to reach the API server from within a pod, or else as the kubeconfig says; None if neither is there.

    Raises:
        Exception: The kubeconfig is not readable, or not a kubeconfig.
    """
    settings = kopf.OperatorSettings()
    return kopf.login_with_service_account(settings=settings) or kopf.login_with_kubeconfig(settings=settings)


class ApiServer:
    """A connection to an API server.

    Args:
        info: Address and credentials.
        connections: How many requests may be under way at once.
        count: Told of every request.
        renew: Asked for credentials again when the server does not take the present ones any more.
    """

    def __init__(
        self,
        info: kopf.ConnectionInfo,
        connections: int = 100,
        count: Counter | None = None,
        renew: Callable[[], kopf.ConnectionInfo | None] | None = None,
    ) -> None:
        self._info = info
        self._authorization = info.as_http_headers()
        self._count = count or (lambda *_: None)
        self._renew = renew or (lambda: None)
        # Without trust_env, or aiohttp looks for a .netrc, in a thread, before every request.
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=connections, ssl=info.as_ssl_context()),
            headers={"Accept": "application/json", "Content-Type": "application/json", "User-Agent": "trainwright"},
            timeout=_TIMEOUT,
            trust_env=False,
            proxy=info.proxy_url,
        )

    @classmethod
    async def connect(cls, connections: int = 100, count: Counter | None = None) -> Self:
        """Return a connection from within a pod, or else as the kubeconfig says.

        Raises:
            ClusterError: Neither is there.
        """
        try:
            info = login()
        except (kopf.LoginError, KeyError, OSError, ValueError, yaml.YAMLError) as error:
            raise ClusterError(f"no cluster to connect to: {type(error).__name__}: {error}") from error
        if info is None:
            raise ClusterError("no cluster to connect to: neither a service account nor a kubeconfig is there")
        return cls(info, connections, count, login)

    async def close(self) -> None:
        """Close all connections."""
        await self._session.close()

    async def request(
        self, verb: str, path: str, resource: str, body: Any = None, query: Mapping[str, str | int] | None = None
    ) -> Manifest:
        """Send one request and return the answer.

        Args:
            verb: HTTP method.
            path: Path on the server.
            resource: What to count the request under.
            body: What to send, as JSON.
            query: Query parameters.

        Raises:
            ClusterError: Or one of its kinds; see the port.
        """
        url = f"{self._info.server}{path}{f'?{urlencode(query)}' if query else ''}"
        content = None if body is None else json.dumps(body, separators=(",", ":")).encode()
        status, data = await self._send(verb, url, resource, content)
        if status == _UNAUTHORIZED and self._log_in_again():
            status, data = await self._send(verb, url, resource, content)
        return _read(status, data)

    async def _send(self, verb: str, url: str, resource: str, content: bytes | None) -> tuple[int, bytes]:
        code = "none"
        try:
            async with self._session.request(verb, url, data=content, headers=self._authorization) as answer:
                data = await answer.read()
                code = str(answer.status)
                return answer.status, data
        except (aiohttp.ClientError, TimeoutError, OSError, asyncio.IncompleteReadError) as error:
            raise ClusterError(f"no answer from the API server: {str(error) or type(error).__name__}") from error
        finally:
            self._count(verb, resource, code)

    def _log_in_again(self) -> bool:
        """Read the credentials anew, and return whether they have changed: tokens rotate."""
        try:
            info = self._renew()
        except (kopf.LoginError, KeyError, OSError, ValueError, yaml.YAMLError):
            return False
        before, self._authorization = self._authorization, info.as_http_headers() if info else self._authorization
        return self._authorization != before


def _read(status: int, data: bytes) -> Manifest:
    try:
        answer = json.loads(data)
    except ValueError:
        answer = None
    if 200 <= status < 300 and isinstance(answer, dict):  # noqa: PLR2004 - success
        return answer
    if not isinstance(answer, dict):
        answer = {}
    raise translate(status, str(answer.get("reason", "")), str(answer.get("message") or data[:200]))


def translate(status: int, reason: str, message: str) -> ClusterError:
    """Return the port's error for an answer of the API server."""
    if status == 404:  # noqa: PLR2004 - not found
        return NotFoundError(message)
    if status == 409:  # noqa: PLR2004 - conflict
        return AlreadyExistsError(message) if reason == "AlreadyExists" else ConflictError(message)
    if status in _REJECTIONS:
        return RejectedError(message)
    return ClusterError(f"API server answered {status}: {message}")
