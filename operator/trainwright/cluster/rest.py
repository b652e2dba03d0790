"""Sends requests with plain dicts to an API server. This is the one place that translates its errors to those of the port.

The official client connects and authenticates. Its typed models are not used, since they cost memory and drop unknown fields.
"""

import asyncio
import json
import os
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, Self
from urllib.parse import urlencode

import aiohttp
import yaml
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

LARGEST: Final = 4 << 20
"""Maximum size of an answer in bytes. No object in etcd is as large. Parsing may take 24 times as much memory."""
_TIMEOUT = aiohttp.ClientTimeout(total=30, sock_connect=10)
_UNAUTHORIZED = 401
_REJECTIONS = frozenset({400, 403, 405, 413, 415, 422})
_WEBHOOK_DOWN = "failed calling webhook"
"""Part of the message of an answer with status 500 if an admission webhook is down. It lasts until somebody repairs the webhook."""


Counter = Callable[[str, str, str], None]
"""Called for every request with verb, resource and status code."""


class TooLargeError(ClusterError):
    """The answer is larger than allowed."""


async def log_in() -> Configuration:
    """Return the address and credentials of the API server: those of this pod or, outside a pod, those of the kubeconfig.

    Raises:
        ClusterError: There is neither, or they cannot be read.
    """
    configuration = Configuration()
    try:
        load_incluster_config(client_configuration=configuration)
    except ConfigException:
        try:
            # The library reads the variable only once, at import.
            await load_kube_config(os.environ.get("KUBECONFIG"), client_configuration=configuration)
        except (ConfigException, OSError, TypeError, ValueError, yaml.YAMLError) as error:
            raise ClusterError(f"no cluster to connect to: {type(error).__name__}: {error}") from error
    # Otherwise aiohttp looks for a .netrc before every request, in a thread. A proxy in the kubeconfig is used anyway.
    configuration.client_session_kwargs = {"trust_env": False}
    return configuration


class ApiServer:
    """A connection to an API server.

    Args:
        configuration: Address and credentials. Its own hook rereads a service account's token.
        count: Called for every request.
        renew: Returns new credentials when the server no longer accepts the present ones.
    """

    def __init__(
        self,
        configuration: Configuration,
        count: Counter | None = None,
        renew: Callable[[], Awaitable[Configuration]] | None = None,
    ) -> None:
        self._configuration = configuration
        self._client = RESTClientObject(configuration)
        self._count = count or (lambda *_: None)
        self._renew = renew

    @classmethod
    async def connect(cls, connections: int = 100, count: Counter | None = None) -> Self:
        """Return a connection with the credentials of this pod or, outside a pod, of the kubeconfig.

        Raises:
            ClusterError: There are no credentials.
        """
        configuration = await log_in()
        configuration.connection_pool_maxsize = connections
        return cls(configuration, count, log_in)

    async def close(self) -> None:
        """Close all connections."""
        await self._client.close()

    async def request(
        self,
        verb: str,
        path: str,
        resource: str,
        body: Any = None,
        query: Mapping[str, str | int] | None = None,
        largest: int = LARGEST,
    ) -> Manifest:
        """Send one request and return the answer.

        Args:
            verb: HTTP method.
            path: Path on the server.
            resource: The name under which the request is counted.
            body: The body, sent as JSON.
            query: Query parameters.
            largest: Maximum size of the answer in bytes, since tenants decide how large their objects are.

        Raises:
            TooLargeError: The answer is larger than `largest`.
            ClusterError: Or one of its kinds; see the port.
        """
        url = f"{self._configuration.host}{path}{f'?{urlencode(query)}' if query else ''}"
        status, data = await self._send(verb, url, resource, body, largest)
        if status == _UNAUTHORIZED and await self._log_in_again():
            status, data = await self._send(verb, url, resource, body, largest)
        return _read(status, data)

    async def _send(self, verb: str, url: str, resource: str, body: Any, largest: int) -> tuple[int, bytes]:
        code = "none"
        try:
            answer = await self._client.request(
                verb, url, headers=await self._headers(), body=body, _request_timeout=_TIMEOUT
            )
            data = await _read_at_most(largest, answer.response)
            code = str(answer.status)
        except (aiohttp.ClientError, TimeoutError, OSError, asyncio.IncompleteReadError) as error:
            raise ClusterError(f"no answer from the API server: {str(error) or type(error).__name__}") from error
        finally:
            self._count(verb, resource, code)
        return answer.status, data

    async def _headers(self) -> dict[str, str]:
        headers = {"Accept": "application/json", "Content-Type": "application/json", "User-Agent": "trainwright"}
        credentials = await _credentials(self._configuration)
        if credentials:
            headers["Authorization"] = credentials
        return headers

    async def _log_in_again(self) -> bool:
        """Read the credentials again and return whether they have changed, since tokens rotate."""
        if self._renew is None:
            return False
        try:
            renewed = await self._renew()
        except ClusterError:
            return False
        before = await _credentials(self._configuration)
        # The session keeps its address and TLS settings; only the credentials may have changed.
        self._configuration.api_key = renewed.api_key
        self._configuration.refresh_api_key_hook = renewed.refresh_api_key_hook
        return await _credentials(self._configuration) != before


async def _credentials(configuration: Configuration) -> str:
    token = await configuration.get_api_key_with_prefix("BearerToken")
    if not token and configuration.username:
        token = configuration.get_basic_auth_token()
    return str(token or "")


async def _read_at_most(largest: int, answer: aiohttp.ClientResponse) -> bytes:
    data = bytearray()
    async for part in answer.content.iter_any():
        data += part
        if len(data) > largest:
            answer.close()  # so that the rest is not read from this connection
            raise TooLargeError(f"the answer of the API server is larger than {largest:,} bytes")
    return bytes(data)


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
    if status in _REJECTIONS or _WEBHOOK_DOWN in message:
        return RejectedError(message)
    return ClusterError(f"API server answered {status}: {message}")
