"""A person at an API server: sends what nobody in their right mind would, and reads what is answered."""

import json
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import aiohttp


@dataclass(frozen=True)
class Answer:
    """What the API server answered."""

    code: int
    body: dict[str, Any]

    @property
    def refused(self) -> bool:
        """Whether nothing was done."""
        return not 200 <= self.code < 300

    @property
    def message(self) -> str:
        """Why not."""
        return str(self.body.get("message", ""))


class Person:
    """Whoever has this token."""

    def __init__(self, url: str, token: str) -> None:
        self._url = url
        context = ssl._create_unverified_context()  # noqa: S323 - a server that lives for one test run
        self._session = aiohttp.ClientSession(
            headers={"Authorization": f"Bearer {token}"}, connector=aiohttp.TCPConnector(ssl=context)
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def get(self, path: str) -> Answer:
        return await self._send("GET", path, None, "application/json", {})

    async def create(self, path: str, body: Any) -> Answer:
        return await self._send("POST", path, body, "application/json", {"fieldValidation": "Strict"})

    async def try_yaml(self, path: str, text: str) -> Answer:
        """Ask what would come of creating an object, as kubectl sends it."""
        query = {"dryRun": "All", "fieldValidation": "Strict"}
        return await self._send("POST", path, text, "application/yaml", query)

    async def apply(self, path: str, manifest: Any, manager: str) -> Answer:
        """Apply a manifest on the server's side, as this field manager."""
        return await self._send("PATCH", path, manifest, "application/apply-patch+yaml", {"fieldManager": manager})

    async def replace(self, path: str, body: Any) -> Answer:
        return await self._send("PUT", path, body, "application/json", {})

    async def merge(self, path: str, patch: Any, *, lenient: bool = False) -> Answer:
        """Patch an object; unless lenient, ask to be told of unknown fields, as kubectl does."""
        query = {} if lenient else {"fieldValidation": "Strict"}
        return await self._send("PATCH", path, patch, "application/merge-patch+json", query)

    async def delete(self, path: str) -> Answer:
        return await self._send("DELETE", path, {"gracePeriodSeconds": 0}, "application/json", {})

    async def _send(self, verb: str, path: str, body: Any, kind: str, query: Mapping[str, str]) -> Answer:
        data = body if body is None or isinstance(body, str) else json.dumps(body)
        async with self._session.request(
            verb,
            self._url + path,
            data=data,
            params=query,
            headers={"Content-Type": kind, "Accept": "application/json"},
        ) as answer:
            text = await answer.text()
            try:
                return Answer(answer.status, json.loads(text))
            except ValueError:
                return Answer(answer.status, {"message": text})
