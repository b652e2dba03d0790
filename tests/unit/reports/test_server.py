"""Who may report, how much and how often, over real TLS."""

import asyncio
import json
import socket
import ssl
import time

import aiohttp
import pytest

from trainwright.api.names import report_audience
from trainwright.api.worker import MOST_HEARTBEATS, WorkerPhase, WorkerReport
from trainwright.cluster.port import ClusterError, JobKey, PodIdentity
from trainwright.reports.access import Access, TooManyReviewsError
from trainwright.reports.certificates import create_authority, linked
from trainwright.reports.listener import Room
from trainwright.reports.server import BODY_LIMIT, ReportsServer

UID = "job-uid"
AUDIENCE = report_audience("team", "digits", UID)


class Known:
    """One job with two pods."""

    def __init__(self):
        self.reports, self.workers = [], []

    def job_uid(self, key):
        return UID if key == JobKey("team", "digits") else None

    def worker_of(self, key, job_uid, pod_uid):
        if (key, job_uid) != (JobKey("team", "digits"), UID):
            return None
        return {"pod-uid": 0, "other-uid": 1}.get(pod_uid)

    def report(self, key, worker, report, at):
        del at
        self.reports.append((key, report))
        self.workers.append(worker)
        return True


class Authority:
    """Reviews tokens written as namespace/pod-uid/audience."""

    def __init__(self):
        self.asked = 0
        self.broken = False

    async def review(self, token, audience):
        self.asked += 1
        if self.broken:
            raise ClusterError("no answer")
        if token.count("|") != 2:
            return None
        namespace, uid, issued_for = token.split("|")
        return PodIdentity(namespace, "pod", uid) if issued_for == audience else None


class Endpoint:
    """A running endpoint and a client that trusts its CA."""

    def __init__(self, **options):
        self.now = 1000.0
        self.leading = True
        self.jobs, self.authority, self.results = Known(), Authority(), []
        self.ca = create_authority()
        self.server = ReportsServer(
            self.jobs,
            self.authority.review,
            self.ca,
            ("localhost", "127.0.0.1"),
            leading=lambda: self.leading,
            count=self.results.append,
            clock=lambda: self.now,
            **options,
        )

    async def post_or_none(self):
        try:
            return (await self.post())[0]
        except aiohttp.ClientError:
            return None

    async def post(self, body=None, token=f"team|pod-uid|{AUDIENCE}", job="digits", **headers):
        context = ssl.create_default_context(cadata=self.ca.certificate.decode())
        if token:
            headers["Authorization"] = f"Bearer {token}"
        url = f"https://127.0.0.1:{self.port}/v1/namespaces/team/jobs/{job}/reports"
        data = body if isinstance(body, bytes) else json.dumps(body or report()).encode()
        async with (
            aiohttp.ClientSession() as session,
            session.post(url, data=data, headers=headers, ssl=context) as answer,
        ):
            self.headers = answer.headers
            return answer.status, await answer.text()


def report(**fields):
    base = WorkerReport(uid=UID, attempt=1, launch="a", sequence=1, phase=WorkerPhase.TRAINING)
    return {**base.to_wire(), **fields}


@pytest.fixture
async def endpoint():
    running = Endpoint()
    running.port = await running.server.start("127.0.0.1", 0)
    yield running
    await running.server.close()


async def test_takes_a_report_of_the_jobs_own_pod(endpoint):
    assert (await endpoint.post())[0] == 204
    (key, taken) = endpoint.jobs.reports[0]
    assert (key, taken.uid) == (JobKey("team", "digits"), UID)
    assert endpoint.results == ["204"]


@pytest.mark.parametrize(
    ("token", "status"),
    [
        (None, 401),
        ("nonsense", 401),
        ("expired" * 700, 401),
        (f"team|pod-uid|{report_audience('team', 'other', 'other-uid')}", 401),
        (f"team|pod-uid|{report_audience('team', 'digits', 'former-uid')}", 401),
        (f"team|another-pod|{AUDIENCE}", 403),
        (f"other|pod-uid|{AUDIENCE}", 403),
    ],
    ids=["none", "expired or forged", "too long", "of another job", "of a former job", "wrong pod", "other namespace"],
)
async def test_refuses_everyone_else(endpoint, token, status):
    assert (await endpoint.post(token=token))[0] == status
    assert endpoint.jobs.reports == []


async def test_refuses_what_is_not_for_this_job(endpoint):
    assert (await endpoint.post(report(uid="former")))[0] == 409
    status, text = await endpoint.post(report(step=-1))
    assert (status, "step" in text) == (400, True)
    assert (await endpoint.post(b"{"))[0] == 400
    assert endpoint.jobs.reports == []


async def test_nobody_learns_which_jobs_there_are(endpoint):
    tokens = ["forged", f"team|pod-uid|{report_audience('team', 'unknown', '')}"]
    answers = {(await endpoint.post(token=token, job=job)) for token in tokens for job in ("digits", "unknown")}
    assert answers == {(401, "the token is not valid for this job\n")}
    assert endpoint.authority.asked == 4, "nor by how long the answer takes"


async def test_junk_from_many_leaves_those_their_share_who_were_heard_before():
    clock = [0.0]
    authority = Authority()
    access = Access(authority.review, lambda: clock[0])
    await access.identify(f"team|pod-uid|{AUDIENCE}", AUDIENCE, "10.0.0.1")
    clock[0] += 61
    junk = (access.identify(f"junk of {sender}", AUDIENCE, f"10.0.1.{sender}") for sender in range(100))
    answers = await asyncio.gather(*junk, return_exceptions=True)
    assert any(isinstance(answer, TooManyReviewsError) for answer in answers)
    assert await access.identify(f"team|pod-uid|{AUDIENCE}", AUDIENCE, "10.0.0.1") is not None


async def test_connections_too_many_are_closed_before_the_handshake():
    running = Endpoint(room=Room(overall=12, per_address=8))
    running.port = await running.server.start("127.0.0.1", 0)
    idle = [await asyncio.open_connection("127.0.0.1", running.port) for _ in range(8)]
    late, writer = await asyncio.open_connection("127.0.0.1", running.port)
    assert await asyncio.wait_for(late.read(), 5) == b""
    writer.close()
    others = [await asyncio.open_connection("127.0.0.1", running.port, local_addr=("127.0.0.2", 0)) for _ in range(4)]
    late, writer = await asyncio.open_connection("127.0.0.1", running.port, local_addr=("127.0.0.3", 0))
    assert await asyncio.wait_for(late.read(), 5) == b""
    writer.close()
    assert running.results == ["crowded"] * 2
    for _, writer in (*idle[:1], *others):
        writer.close()
        await writer.wait_closed()
    async with asyncio.timeout(5):
        while (await running.post_or_none()) != 204:  # noqa: ASYNC110 - that it sees the end of a connection sets no event
            await asyncio.sleep(0)
    for _, writer in idle:
        writer.close()
    await running.server.close()


async def test_refuses_what_is_too_large(endpoint):
    async def endless():
        for _ in range(3 * BODY_LIMIT // 1024):
            yield b" " * 1024

    assert (await endpoint.post(b" " * (BODY_LIMIT + 1)))[0] == 413
    context = ssl.create_default_context(cadata=endpoint.ca.certificate.decode())
    url = f"https://127.0.0.1:{endpoint.port}/v1/namespaces/team/jobs/digits/reports"
    headers = {"Authorization": f"Bearer team|pod-uid|{AUDIENCE}"}
    async with aiohttp.ClientSession() as session:
        try:
            async with session.post(url, data=endless(), headers=headers, ssl=context) as answer:
                assert answer.status == 413
        except aiohttp.ClientError:
            pass  # the connection may be closed while the rest is still being sent
    assert endpoint.jobs.reports == []


async def test_a_large_job_fits(endpoint):
    beats = [{"rank": 10**6 + rank, "step": 10**18, "secondsAgo": 12.345} for rank in range(MOST_HEARTBEATS)]
    saved = {"step": 10**18, "path": "/checkpoints/" + 200 * "a", "bytes": 10**15, "sha256": 64 * "0"}
    checkpoints = [{**saved, "savedAt": "2026-01-02T00:00:00Z"} for _ in range(100)]
    content = report(heartbeats=beats, checkpoints=checkpoints, absent=list(range(10_000)), message=1024 * "m")
    assert (await endpoint.post(content))[0] == 204


async def test_a_later_worker_may_say_more(endpoint):
    beats = [{"rank": 0, "step": 1, "secondsAgo": 1.0, "temperature": 71}]
    assert (await endpoint.post(report(heartbeats=beats, humidity=0.4)))[0] == 204


async def test_worker_0_is_heard_however_many_others_speak(endpoint):
    others = [(await endpoint.post(token=f"team|other-uid|{AUDIENCE}"))[0] for _ in range(12)]
    assert others == [204] * 10 + [429] * 2
    assert (await endpoint.post())[0] == 204
    assert endpoint.jobs.workers == [1] * 10 + [0]


async def test_limits_the_rate_per_job(endpoint):
    answers = [(await endpoint.post())[0] for _ in range(12)]
    assert answers == [204] * 10 + [429] * 2
    endpoint.now += 1
    assert (await endpoint.post())[0] == 204


@pytest.mark.parametrize(
    ("rate", "pause", "closes"),
    [(100.0, None, False), (0.6, "2", False), (0.4, "3", True), (0.1, "10", True), (0.001, "15", True)],
)
async def test_many_who_report_are_asked_to_pause_and_not_held_on_to(monkeypatch, rate, pause, closes):
    monkeypatch.setattr("trainwright.reports.server._OVERALL_RATE", rate)
    running = Endpoint()
    running.port = await running.server.start("127.0.0.1", 0)
    status, _ = await running.post()
    await running.server.close()
    assert status == 204
    assert running.headers.get("Retry-After") == pause
    assert (running.headers.get("Connection") == "close") is closes


async def test_reviews_a_token_once_a_minute(endpoint):
    for _ in range(5):
        await endpoint.post()
    assert endpoint.authority.asked == 1
    endpoint.now += 61
    await endpoint.post()
    assert endpoint.authority.asked == 2


async def test_bounds_the_reviews_that_one_sender_can_cause(endpoint):
    answers = [(await endpoint.post(token=f"forged-{n}"))[0] for n in range(15)]
    assert answers == [401] * 10 + [429] * 5
    assert endpoint.authority.asked == 10


async def test_says_when_it_cannot_decide(endpoint):
    endpoint.authority.broken = True
    assert (await endpoint.post())[0] == 503
    endpoint.authority.broken = False
    endpoint.leading = False
    assert (await endpoint.post())[0] == 503
    endpoint.leading = True
    assert (await endpoint.post())[0] == 204


async def test_a_renewed_certificate_is_presented_without_a_restart(endpoint):
    def peer(ca):
        context = ssl.create_default_context(cadata=ca.certificate.decode())
        with (
            socket.create_connection(("127.0.0.1", endpoint.port)) as raw,
            context.wrap_socket(raw, server_hostname="127.0.0.1") as wrapped,
        ):
            return wrapped.getpeercert()

    first = await asyncio.to_thread(peer, endpoint.ca)
    endpoint.server.renew()
    second = await asyncio.to_thread(peer, endpoint.ca)
    assert first["serialNumber"] != second["serialNumber"]
    assert ssl.cert_time_to_seconds(second["notAfter"]) > time.time() + 80 * 86400

    newer = create_authority()
    with pytest.raises(ssl.SSLCertVerificationError):
        await asyncio.to_thread(peer, newer)
    endpoint.server.renew(linked(newer, endpoint.ca))
    assert await asyncio.to_thread(peer, newer) == await asyncio.to_thread(peer, endpoint.ca)

    endpoint.server.renew(newer)
    with pytest.raises(ssl.SSLCertVerificationError):
        await asyncio.to_thread(peer, endpoint.ca)
