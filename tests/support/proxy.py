"""A reverse proxy before an API server, which fails as a test says: answers errors, drops connections, ends watches."""

import asyncio
import json
import random
import ssl
from collections import Counter
from dataclasses import dataclass, field
from typing import Self

import aiohttp
from aiohttp import web

_HOP = frozenset({"connection", "content-encoding", "content-length", "host", "keep-alive", "transfer-encoding"})
_REASONS = {409: "Conflict", 410: "Expired", 429: "TooManyRequests", 500: "InternalError", 503: "ServiceUnavailable"}
_OF_WRITES = (409, 410)
"""What no server answers to somebody who reads, but for a watch."""
LOST_BEFORE = "lost before"
LOST_AFTER = "lost after"


@dataclass
class Weather:
    """How bad things are.

    Attributes:
        share: Share of the requests that fail, from 0 to 1; watches apart.
        kinds: How they fail: a status code that is answered, or a connection that is lost before or after the effect.
        watch_seconds: For how long a watch goes on before it is cut; None for ever.
        expired: Whether watches that begin are told that their resource version is too old.
    """

    share: float = 0.0
    kinds: tuple[int | str, ...] = (409, 410, 429, 500, 503, LOST_BEFORE, LOST_AFTER)
    watch_seconds: float | None = None
    expired: bool = False


@dataclass
class Tally:
    """What went through.

    Attributes:
        faults: Failures so far, by kind.
        created: Pods that the API server has created, by name.
        watches: Watches begun.
        requests: Requests so far.
    """

    faults: Counter[int | str] = field(default_factory=Counter)
    created: Counter[str] = field(default_factory=Counter)
    watches: int = 0
    requests: int = 0


class FaultyProxy:
    """See the module. Leases are left in peace: whoever loses one ends, by design.

    Args:
        upstream: The API server.
        seed: Of what fails when.
    """

    def __init__(self, upstream: str, seed: int) -> None:
        self.weather = Weather()
        self.tally = Tally()
        self._upstream = upstream
        self._random = random.Random(seed)

    async def __aenter__(self) -> Self:
        context = ssl._create_unverified_context()  # noqa: S323 - a server that lives for one test run
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=context, limit=0), auto_decompress=True
        )
        app = web.Application(client_max_size=2**24)
        app.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()
        await self._session.close()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        if request.query.get("watch") in ("true", "1"):
            return await self._watch(request)
        self.tally.requests += 1
        fault = None
        if "/leases" not in request.path and self._random.random() < self.weather.share:
            fault = self._random.choice(self.weather.kinds)
            if request.method == "GET" and fault in _OF_WRITES:
                fault = None
            else:
                self.tally.faults[fault] += 1
        if isinstance(fault, int):
            return _failure(fault)
        if fault == LOST_BEFORE:
            return _lose(request)
        answer = await self._forward(request)
        return _lose(request) if fault == LOST_AFTER else answer

    async def _forward(self, request: web.Request) -> web.Response:
        async with self._session.request(
            request.method,
            self._upstream + request.raw_path,
            headers=_headers(request.headers),
            data=await request.read() or None,
        ) as answer:
            body = await answer.read()
            if request.method == "POST" and request.path.endswith("/pods") and answer.status == 201:
                self.tally.created[json.loads(body)["metadata"]["name"]] += 1
            return web.Response(status=answer.status, body=body, headers=_headers(answer.headers))

    async def _watch(self, request: web.Request) -> web.StreamResponse:
        self.tally.watches += 1
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        if self.weather.expired:
            event = {"type": "ERROR", "object": _status(410)}
            await response.write(json.dumps(event).encode() + b"\n")
            return response
        try:
            async with (
                asyncio.timeout(self.weather.watch_seconds),
                self._session.get(
                    self._upstream + request.raw_path,
                    headers=_headers(request.headers),
                    timeout=aiohttp.ClientTimeout(total=None),
                ) as answer,
            ):
                async for line in answer.content:
                    await response.write(line)
        except TimeoutError:
            self.tally.faults["watch cut"] += 1
            return _lose(request)
        return response


def _headers(headers: "aiohttp.typedefs.LooseHeaders") -> dict[str, str]:
    return {name: value for name, value in dict(headers).items() if name.lower() not in _HOP}


def _status(code: int) -> dict[str, object]:
    message = f"injected: {_REASONS[code]}"
    meta = {"apiVersion": "v1", "kind": "Status", "metadata": {}}
    return {**meta, "status": "Failure", "reason": _REASONS[code], "code": code, "message": message}


def _failure(code: int) -> web.Response:
    headers = {"Retry-After": "1"} if code == 429 else {}
    return web.json_response(_status(code), status=code, headers=headers)


def _lose(request: web.Request) -> web.Response:
    """End the connection without an answer."""
    if request.transport is not None:
        request.transport.abort()
    return web.Response(status=499)
