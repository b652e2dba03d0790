"""The HTTPS endpoint for the workers' reports: it authenticates, limits and forwards them without interpreting them.

    POST /v1/namespaces/{namespace}/jobs/{name}/reports    Authorization: Bearer <token>    a WorkerReport as JSON

204 accepted · 400 not a report · 401 token not valid for this job, or no such job · 403 pod not of this job ·
409 report of another job that had this name · 413 too large · 429 too fast · 503 not the replica that works.
A report is complete in itself and followed by another one within seconds, so a sender that is refused simply goes on.
When very many jobs report, the answer's Retry-After asks each to pause longer, and connections are not kept meanwhile: one
costs 50 KiB, another handshake half a millisecond. So no more than two hundred are kept, and there is room for five times that.
"""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import Protocol

import structlog
from aiohttp import web
from pydantic import ValidationError

from trainwright.api.names import report_audience
from trainwright.api.worker import WorkerReport
from trainwright.cluster.port import ClusterError, JobKey, PodIdentity
from trainwright.reports.access import Access, TooManyReviewsError
from trainwright.reports.certificates import SERVING_LIFETIME, KeyPair, issue, load, server_context
from trainwright.reports.limits import RateLimits
from trainwright.reports.listener import Listener, Room
from trainwright.reports.pace import Pace

log = structlog.get_logger(__name__)

BODY_LIMIT = 128 * 1024
"""A report that names 10,000 absent workers and 100 checkpoints has about 100 KiB."""
_TOKEN_LIMIT = 4 * 1024
_READ_SECONDS = 10.0
_RATE, _BURST = 5.0, 10.0
_OVERALL_RATE, _LONGEST_PAUSE = 100.0, 15.0
_KEEP = 2.0
"""If the pause is at least this many seconds, the connection is closed."""


class Jobs(Protocol):
    """The job data that the endpoint needs, and the sink for reports."""

    def job_uid(self, key: JobKey) -> str | None:
        """Return the UID of the job, or None if there is no such job."""

    def worker_of(self, key: JobKey, job_uid: str, pod_uid: str) -> int | None:
        """Return which worker of the job has the pod with this UID, or None if none has."""

    def report(self, key: JobKey, worker: int, report: WorkerReport, at: datetime) -> bool:
        """Keep a report of a worker if it is its newest."""


class _Refusal(Exception):  # noqa: N818 - an answer rather than an error
    """An answer other than 204."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class ReportsServer:
    """The endpoint.

    Args:
        jobs: What is known of jobs.
        review: Asks the cluster which pod a token belongs to.
        authority: The CA that workers trust.
        hosts: DNS names and addresses under which workers reach the endpoint.
        leading: Whether this replica works; the others refuse reports.
        count: Told the result of every report.
        clock: A monotonic clock, in seconds.
        room: How many connections there is room for.
    """

    def __init__(
        self,
        jobs: Jobs,
        review: Callable[[str, str], Awaitable[PodIdentity | None]],
        authority: KeyPair,
        hosts: Sequence[str],
        *,
        leading: Callable[[], bool] = lambda: True,
        count: Callable[[str], None] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
        room: Room = Room(),  # noqa: B008 - frozen
    ) -> None:
        self._jobs = jobs
        self._access = Access(review, clock)
        self._authority = authority
        self._hosts = tuple(hosts)
        self._leading = leading
        self._count = count
        self._rates = RateLimits(_RATE, _BURST, clock)
        self._pace = Pace(_OVERALL_RATE, _LONGEST_PAUSE, clock)
        self._context = server_context()
        self._room = room
        self._runner: web.AppRunner | None = None
        self._listener: Listener | None = None
        self._renewal: asyncio.Task[None] | None = None

    async def start(self, host: str | None, port: int) -> int:
        """Listen, and return the port."""
        self.renew()
        app = web.Application(client_max_size=BODY_LIMIT)
        app.router.add_post("/v1/namespaces/{namespace}/jobs/{name}/reports", self._handle)
        self._runner = web.AppRunner(app, access_log=None, keepalive_timeout=30, shutdown_timeout=2)
        await self._runner.setup()
        assert self._runner.server is not None  # noqa: S101 - since it is set up
        self._listener = Listener(self._runner.server, self._context, self._room, lambda: self._count("crowded"))
        self._renewal = asyncio.create_task(self._renew_forever(), name="certificate renewal")
        return self._listener.start(host, port)

    async def close(self) -> None:
        """Stop listening."""
        if self._renewal is not None:
            self._renewal.cancel()
            await asyncio.gather(self._renewal, return_exceptions=True)
        if self._listener is not None:
            await self._listener.close()
        if self._runner is not None:
            await self._runner.cleanup()

    def renew(self, authority: KeyPair | None = None) -> None:
        """Present a fresh certificate from the next connection on, signed by another CA if there is one."""
        self._authority = authority or self._authority
        load(self._context, issue(self._authority, self._hosts))

    async def _renew_forever(self) -> None:
        while True:
            await asyncio.sleep(SERVING_LIFETIME.total_seconds() / 3)
            self.renew()

    async def _handle(self, request: web.Request) -> web.Response:
        try:
            pause = await self._accept(request)
        except _Refusal as refusal:
            self._count(str(refusal.status))
            response = web.Response(status=refusal.status, text=f"{refusal}\n")
            if refusal.status in (429, 503):
                response.headers["Retry-After"] = "1"
            # Later requests on this connection would be refused too, or start with the unread rest of the body.
            response.force_close()
            return response
        self._count("204")
        response = web.Response(status=204)
        if pause > 1:
            response.headers["Retry-After"] = str(math.ceil(pause))
        if pause > _KEEP:
            response.force_close()
        return response

    async def _accept(self, request: web.Request) -> float:
        """Process a report and return how many seconds its sender should pause."""
        if not self._leading():
            raise _Refusal(503, "another replica is the leader now; try again")
        key = JobKey(request.match_info["namespace"], request.match_info["name"])
        token = _bearer(request)
        uid = self._jobs.job_uid(key)
        worker = await self._authorize(request, key, uid, token)
        # Worker 0 has its own limit, so that reports of waiting workers cannot crowd it out.
        if not self._rates.allow((key, worker == 0)):
            raise _Refusal(429, "too many reports")
        report = _parse(await _body(request))
        if report.uid != uid:
            raise _Refusal(409, "the report is for another job (uid)")
        self._jobs.report(key, worker, report, datetime.now(UTC))
        return self._pace.pause((key, worker), key.namespace)

    async def _authorize(self, request: web.Request, key: JobKey, uid: str | None, token: str) -> int:
        """Return which worker of the job reports. A missing job gets the same answer as an existing one, to reveal nothing."""
        audience = report_audience(key.namespace, key.name, uid or "")
        try:
            pod = await self._access.identify(token, audience, request.remote or "")
        except TooManyReviewsError:
            raise _Refusal(429, "too many unknown tokens") from None
        except ClusterError as error:
            log.warning("token cannot be reviewed", job=str(key), error=str(error))
            raise _Refusal(503, "the token cannot be reviewed now; try again") from error
        if pod is None or uid is None:
            raise _Refusal(401, "the token is not valid for this job")
        worker = self._jobs.worker_of(key, uid, pod.uid) if pod.namespace == key.namespace else None
        if worker is None:
            raise _Refusal(403, "the pod does not belong to this job")
        return worker


def _bearer(request: web.Request) -> str:
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token or len(token) > _TOKEN_LIMIT:
        raise _Refusal(401, "a bearer token is required")
    return token.strip()


async def _body(request: web.Request) -> bytes:
    if (request.content_length or 0) > BODY_LIMIT:
        raise _Refusal(413, f"a report has at most {BODY_LIMIT} bytes")
    try:
        async with asyncio.timeout(_READ_SECONDS):
            return await request.read()
    except web.HTTPRequestEntityTooLarge:
        raise _Refusal(413, f"a report has at most {BODY_LIMIT} bytes") from None
    except TimeoutError:
        raise _Refusal(408, "the report took too long to arrive") from None


def _parse(body: bytes) -> WorkerReport:
    try:
        return WorkerReport.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise _Refusal(400, f"not a report: {where or 'body'}: {first['msg']}") from None
