"""A bare client of the API server, and a recorder that notes when pods and jobs came to be what they are."""

import asyncio
import contextlib
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import aiohttp

Manifest = dict[str, Any]
LABEL_JOB = "trainwright.dev/job-name"
LABEL_WORKER = "trainwright.dev/worker-index"
JOBS = "/apis/trainwright.dev/v1alpha1/namespaces/{}/trainingjobs"
_LOOK = 0.02


class ApiError(Exception):
    """The API server refused; `status` is the HTTP status."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(f"{status} {text}")
        self.status = status


class Client:
    """Requests to the API server, without anything in between."""

    def __init__(self, url: str, token: str) -> None:
        self._url = url
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=False, limit=64),
            headers={"Authorization": f"Bearer {token}", "Accept": "application/json"},
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=10),
        )

    async def close(self) -> None:
        """Close all connections."""
        await self._session.close()

    async def request(self, verb: str, path: str, body: Any = None) -> Manifest:
        """Send a request and return the answer; one that comes too early is repeated."""
        data, headers = None if body is None else json.dumps(body), {"Content-Type": "application/json"}
        while True:
            async with self._session.request(verb, self._url + path, data=data, headers=headers) as answer:
                text = await answer.read()
            if answer.status == 429:
                await asyncio.sleep(float(answer.headers.get("Retry-After", 1)))
            elif answer.status < 300:
                return json.loads(text)
            else:
                raise ApiError(answer.status, f"{verb} {path}: {text[:500]!r}")

    async def watch(self, path: str, version: str) -> AsyncIterator[Manifest]:
        """Yield the events of a watch until the server ends it."""
        query = f"{'&' if '?' in path else '?'}watch=1&resourceVersion={version}&timeoutSeconds=3600"
        async with self._session.get(self._url + path + query, read_bufsize=2**22) as answer:
            async for line in answer.content:
                yield json.loads(line)


async def gather(calls: Iterable[Callable[[], Awaitable[Any]]], at_once: int = 16) -> None:
    """Make all calls, so many at once."""
    slots = asyncio.Semaphore(at_once)

    async def make(call: Callable[[], Awaitable[Any]]) -> None:
        async with slots:
            await call()

    await asyncio.gather(*(make(call) for call in calls))


@dataclass
class PodRecord:
    """What was seen of a pod; times are of the monotonic clock."""

    namespace: str
    job: str
    name: str
    uid: str
    index: str
    created: float
    running: float | None = None
    live: bool = True


@dataclass
class JobRecord:
    """What was seen of a job's status: (when, status) of every change."""

    uid: str
    statuses: list[tuple[float, Manifest]] = field(default_factory=list)

    def first(self, holds: Callable[[Manifest], Any], since: float = 0.0) -> float | None:
        """Return when the status was first seen to be like this."""
        return next((at for at, status in self.statuses if at >= since and holds(status)), None)

    @property
    def status(self) -> Manifest:
        """The newest status."""
        return self.statuses[-1][1] if self.statuses else {}


class Recorder:
    """Watches all pods that carry a label, and all jobs.

    Attributes:
        pods: By UID.
        jobs: By namespace and name.
        duplicates: Pods that came while another of the same job and index was alive.
    """

    def __init__(self, client: Client, label: str = LABEL_JOB, *, jobs: bool = True) -> None:
        self._client = client
        self._label = label
        self._with_jobs = jobs
        self.pods: dict[str, PodRecord] = {}
        self.jobs: dict[tuple[str, str], JobRecord] = {}
        self.status_writes = 0
        self.duplicates: list[str] = []
        self._alive: Counter[tuple[str, str, str]] = Counter()
        self._changed = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Begin to watch from now on."""
        paths = {f"/api/v1/pods?labelSelector={self._label}": self._pod}
        if self._with_jobs:
            paths["/apis/trainwright.dev/v1alpha1/trainingjobs"] = self._job
        for path, note in paths.items():
            version = await self._list(path, note)
            self._tasks.append(asyncio.create_task(self._follow(path, version, note)))

    async def stop(self) -> None:
        """Watch no more."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def until(self, holds: Callable[[], Any], seconds: float, what: str) -> None:
        """Wait until something holds of what was recorded.

        Raises:
            TimeoutError: It did not come true in time.
        """
        try:
            async with asyncio.timeout(seconds):
                while not holds():
                    for task in self._tasks:
                        if task.done():
                            task.result()
                    self._changed.clear()
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(1):
                            await self._changed.wait()
                    await asyncio.sleep(_LOOK)  # many events come at once; one look at all of them is enough
        except TimeoutError:
            raise TimeoutError(f"not within {seconds:g} s: {what}") from None

    def pods_of(self, namespace: str, job: str | None = None) -> list[PodRecord]:
        """Return the pods seen in a namespace, or of one job there."""
        return [pod for pod in self.pods.values() if pod.namespace == namespace and job in (None, pod.job)]

    async def _list(self, path: str, note: Callable[[str, Manifest, float], None]) -> str:
        listing = await self._client.request("GET", path)
        for item in listing["items"]:
            note("ADDED", item, time.monotonic())
        version: str = listing["metadata"]["resourceVersion"]
        return version

    async def _follow(self, path: str, version: str, note: Callable[[str, Manifest, float], None]) -> None:
        """Watch for ever; the server ends a watch that is read too slowly, and may then have forgotten where it was."""
        while True:
            async for event in self._client.watch(path, version):
                if event["type"] == "ERROR":
                    version = await self._list(path, note)
                    break
                version = event["object"]["metadata"]["resourceVersion"]
                note(event["type"], event["object"], time.monotonic())
                self._changed.set()

    def _pod(self, kind: str, pod: Manifest, now: float) -> None:
        meta, phase = pod["metadata"], pod["status"].get("phase")
        known = self.pods.get(meta["uid"])
        if known is None:
            labels = meta["labels"]
            known = PodRecord(
                meta["namespace"],
                labels[self._label],
                meta["name"],
                meta["uid"],
                labels.get(LABEL_WORKER, meta["name"]),
                now,
            )
            self.pods[meta["uid"]] = known
            place = (known.namespace, known.job, known.index)
            self._alive[place] += 1
            if self._alive[place] > 1:
                self.duplicates.append(known.name)
        if phase == "Running" and known.running is None:
            known.running = now
        ended = kind == "DELETED" or meta.get("deletionTimestamp") or phase in ("Succeeded", "Failed")
        if ended and known.live:
            known.live = False
            self._alive[known.namespace, known.job, known.index] -= 1

    def _job(self, kind: str, job: Manifest, now: float) -> None:
        meta = job["metadata"]
        key = (meta["namespace"], meta["name"])
        if kind == "DELETED":
            self.jobs.pop(key, None)
            return
        known = self.jobs.setdefault(key, JobRecord(meta["uid"]))
        status = job.get("status") or {}
        if status != known.status:
            known.statuses.append((now, status))
            self.status_writes += 1
