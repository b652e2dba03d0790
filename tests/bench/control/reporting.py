"""Stand-ins for rank 0 of many jobs: real reports over the real HTTPS endpoint with the pods' real tokens.

KWOK's pods run nothing, so something must say what their workers would. Each job has an address of its own on loopback,
as pods have, keeps its connection and pauses when asked to, as a worker does.
"""

import asyncio
import base64
import json
import re
import ssl
import time
from collections import Counter
from dataclasses import dataclass

from client import Client, Recorder, gather
from operating import NAMESPACE

from trainwright.api.names import report_audience
from trainwright.api.worker import WorkerPhase, WorkerReport

INTERVAL = 2.0
_STEPS = 1_000_000
_TIMEOUT = 20.0
_CLOSE = b"connection: close"
_RETRY_AFTER = re.compile(rb"(?i)retry-after: (\d+)")


@dataclass
class _Rank:
    """Rank 0 of a job."""

    namespace: str
    job: str
    uid: str
    token: str
    address: str
    attempt: int
    step: int = 0


class Reporters:
    """Rank 0 of many jobs.

    Attributes:
        answers: How many reports got which HTTP status; 0 for none at all.
    """

    def __init__(self, client: Client, port: int) -> None:
        self._client = client
        self._port = port
        self._ranks: list[_Rank] = []
        self._tasks: list[asyncio.Task[None]] = []
        self.answers: Counter[int] = Counter()

    async def enlist(self, recorder: Recorder, namespace: str) -> None:
        """Get a token for worker 0 of every job in a namespace."""
        workers = [pod for pod in recorder.pods_of(namespace) if pod.live and pod.index == "0"]

        async def enlist(number: int) -> None:
            pod = workers[number]
            record = recorder.jobs[namespace, pod.job]
            uid = record.uid
            bound = {"kind": "Pod", "apiVersion": "v1", "name": pod.name, "uid": pod.uid}
            spec = {"audiences": [report_audience(namespace, pod.job, uid)], "boundObjectRef": bound}
            body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec}
            path = f"/api/v1/namespaces/{namespace}/serviceaccounts/default/token"
            token = (await self._client.request("POST", path, body))["status"]["token"]
            address = f"127.1.{number // 250}.{1 + number % 250}"
            self._ranks.append(_Rank(namespace, pod.job, uid, token, address, record.status["attempt"]))

        await gather(lambda n=number: enlist(n) for number in range(len(workers)))

    async def start(self) -> None:
        """Begin to report, spread over one interval."""
        path = f"/api/v1/namespaces/{NAMESPACE}/secrets/trainwright-reports-ca"
        secret = await self._client.request("GET", path)
        context = ssl.create_default_context(cadata=base64.b64decode(secret["data"]["tls.crt"]).decode())
        for number, rank in enumerate(self._ranks):
            delay = INTERVAL * number / len(self._ranks)
            self._tasks.append(asyncio.create_task(self._report_forever(rank, context, delay)))

    async def stop(self) -> None:
        """Report no more."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _report_forever(self, rank: _Rank, context: ssl.SSLContext, delay: float) -> None:
        await asyncio.sleep(delay)
        while True:
            pause = INTERVAL
            try:
                pause = await self._report_over_one_connection(rank, context)
            except (OSError, TimeoutError, asyncio.IncompleteReadError, ValueError):
                self.answers[0] += 1
            await asyncio.sleep(pause)

    async def _report_over_one_connection(self, rank: _Rank, context: ssl.SSLContext) -> float:
        """Report until the operator closes the connection, and return for how many seconds to pause then."""
        async with asyncio.timeout(_TIMEOUT):
            reader, writer = await asyncio.open_connection(
                "127.0.0.1",
                self._port,
                ssl=context,
                server_hostname=f"trainwright-reports.{NAMESPACE}.svc",
                local_addr=(rank.address, 0),
            )
        try:
            while True:
                sent = time.monotonic()
                rank.step += 20
                writer.write(_request(rank))
                async with asyncio.timeout(_TIMEOUT):
                    head = await reader.readuntil(b"\r\n\r\n")
                status = int(head.split(maxsplit=2)[1])
                self.answers[status] += 1
                pause = max(INTERVAL, *(float(asked) for asked in _RETRY_AFTER.findall(head)), 0.0)
                if _CLOSE in head.lower():
                    return pause
                await asyncio.sleep(max(0.0, sent + pause - time.monotonic()))
        finally:
            writer.close()


def _request(rank: _Rank) -> bytes:
    now = time.time()
    report = WorkerReport(
        uid=rank.uid,
        attempt=rank.attempt,
        launch="bench",
        sequence=int(now * 1000),
        phase=WorkerPhase.TRAINING,
        step=rank.step,
        total_steps=_STEPS,
        total_epochs=100,
        samples=64 * rank.step,
        loss=1 / (1 + rank.step / 1000),
        learning_rate=0.001,
        samples_per_second=640.0,
        steps_per_second=10.0,
        heartbeats=[{"rank": rank, "step": 0, "seconds_ago": 0.1} for rank in range(2)],
    )
    body = json.dumps(report.to_wire())
    return (
        f"POST /v1/namespaces/{rank.namespace}/jobs/{rank.job}/reports HTTP/1.1\r\nHost: reports\r\n"
        f"Authorization: Bearer {rank.token}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n{body}"
    ).encode()
