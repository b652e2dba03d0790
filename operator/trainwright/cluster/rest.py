"""Requests to an API server with plain dicts, and the one place where its errors become those of the port.

Uses of the official client only what knows how to connect and authenticate; its typed models stay out, since they cost
memory and drop fields they do not know.
"""

import asyncio
import json
from collections.abc import Callable, Mapping
from typing import Any, Self
from urllib.parse import urlencode

import aiohttp
from kubernetes.aio.client.configuration import Configuration
from kubernetes.aio.client.rest import RESTClientObject
from kubernetes.aio.config import ConfigException, load_incluster_config, load_kube_config

from trainwright.cluster.port import (
    AlreadyExistsError,
    ClusterError,
    ConflictError,
    Manifest,
    NotFoundError,
    RejectedError,
)

_TIMEOUT = aiohttp.ClientTimeout(total=30, sock_connect=10)
_REJECTIONS = frozenset({400, 403, 405, 413, 415, 422})

Counter = Callable[[str, str, str], None]
"""Told of every request: verb, resource, status code."""


class ApiServer:
    """A connection to an API server.

    Args:
        configuration: Address and credentials. A token that rotates is read anew by the configuration's own hook.
        count: Told of every request.
    """

    def __init__(self, configuration: Configuration, count: Counter | None = None) -> None:
        self._configuration = configuration
        self._client = RESTClientObject(configuration)
        self._count = count or (lambda *_: None)

    @classmethod
    async def connect(cls, connections: int = 100, count: Counter | None = None) -> Self:
        """Return a connection from within a pod, or else as the kubeconfig says.

        Raises:
            ClusterError: Neither is there.
        """
        configuration = Configuration()
        try:
            load_incluster_config(client_configuration=configuration)
        except ConfigException:
            try:
                await load_kube_config(client_configuration=configuration)
            except ConfigException as error:
                raise ClusterError(f"no cluster to connect to: {error}") from error
        configuration.connection_pool_maxsize = connections
        # Or aiohttp looks for a .netrc, in a thread, before every request. A kubeconfig's own proxy is honoured anyway.
        configuration.client_session_kwargs = {"trust_env": False}
        return cls(configuration, count)

    async def close(self) -> None:
        """Close all connections."""
        await self._client.close()

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
        code = "none"
        try:
            url = f"{self._configuration.host}{path}{f'?{urlencode(query)}' if query else ''}"
            answer = await self._client.request(
                verb, url, headers=await self._headers(), body=body, _request_timeout=_TIMEOUT
            )
            data = await answer.read()
            code = str(answer.status)
        except (aiohttp.ClientError, TimeoutError, OSError, asyncio.IncompleteReadError) as error:
            raise ClusterError(f"no answer from the API server: {str(error) or type(error).__name__}") from error
        finally:
            self._count(verb, resource, code)
        return _read(answer.status, data)

    async def _headers(self) -> dict[str, str]:
        headers = {"Accept": "application/json", "Content-Type": "application/json", "User-Agent": "trainwright"}
        credentials = await self._configuration.get_api_key_with_prefix("BearerToken")
        if not credentials and self._configuration.username:
            credentials = self._configuration.get_basic_auth_token()
        if credentials:
            headers["Authorization"] = str(credentials)
        return headers


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
