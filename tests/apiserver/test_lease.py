"""Leader election on a real API server."""

import asyncio
import itertools

import pytest

from trainwright.cluster.port import ClusterError
from trainwright.controller.lease import Lease, LeaseLostError

NAMES = (f"lease-{n}" for n in itertools.count())


@pytest.fixture
async def candidate(api_server, namespace):
    connections = []
    name = next(NAMES)

    def make(identity, duration=1.5, renew=0.1):
        connections.append(api_server.connect())
        return Lease(connections[-1], namespace, name, identity, duration=duration, renew=renew)

    yield make
    for connection in connections:
        await connection.close()


async def _holds(lease):
    return await asyncio.wait_for(lease.acquire(asyncio.Event()), 10)


async def test_only_one_of_many_gets_it(candidate):
    stop = asyncio.Event()
    tasks = {asyncio.create_task(candidate(f"c{n}", duration=30).acquire(stop)) for n in range(5)}
    done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED, timeout=10)
    stop.set()
    late = await asyncio.gather(*pending)
    assert [task.result() for task in done] == [True]
    assert late == [False] * 4


async def test_a_release_hands_over_at_once(candidate):
    first, second = candidate("first", duration=30), candidate("second", duration=30)
    assert await _holds(first)
    waiting = asyncio.create_task(_holds(second))
    await first.release()
    assert await asyncio.wait_for(waiting, 10)
    with pytest.raises(LeaseLostError, match="second"):
        await asyncio.wait_for(first.hold(), 10)


async def test_a_silent_holder_is_replaced_but_not_before_its_time(candidate):
    loop = asyncio.get_running_loop()
    first, second = candidate("first"), candidate("second")
    assert await _holds(first)
    begun = loop.time()
    assert await _holds(second)
    assert loop.time() - begun >= 1.5


async def test_a_holder_that_renews_is_left_alone(candidate):
    first, second = candidate("first", duration=3.0), candidate("second", duration=3.0)
    assert await _holds(first)
    holding = asyncio.create_task(first.hold())
    stop = asyncio.Event()
    waiting = asyncio.create_task(second.acquire(stop))
    _, pending = await asyncio.wait({holding, waiting}, timeout=5)
    assert pending == {holding, waiting}
    stop.set()
    assert await waiting is False
    holding.cancel()


async def test_a_lease_that_is_held_is_renewed_by_one_request(candidate, monkeypatch):
    first = candidate("first", duration=60)
    assert await _holds(first)
    requests = _listen(first, monkeypatch)
    assert await first._try()
    assert await first._try()
    assert requests == ["PUT", "PUT"]


async def test_a_lease_that_someone_else_wrote_meanwhile_is_looked_at_again(candidate, monkeypatch):
    first, twin = candidate("same", duration=60), candidate("same", duration=60)
    assert await _holds(first)
    assert await _holds(twin)
    requests = _listen(first, monkeypatch)
    assert await first._try()
    assert requests == ["PUT", "GET", "PUT"]


def _listen(lease, monkeypatch):
    """Return the list that the methods of the lease's requests go to from now on."""
    requests, request = [], lease._server.request

    async def noting(method, *args, **kwargs):
        requests.append(method)
        return await request(method, *args, **kwargs)

    monkeypatch.setattr(lease._server, "request", noting)
    return requests


async def test_a_container_started_again_in_its_pod_goes_on_at_once(candidate):
    assert await _holds(candidate("pod", duration=60))
    assert await asyncio.wait_for(_holds(candidate("pod", duration=60)), 2)


async def test_a_holder_cut_off_gives_up_before_others_may_begin(candidate, monkeypatch):
    loop = asyncio.get_running_loop()
    first = candidate("first", duration=1.5)
    assert await _holds(first)

    async def unreachable(*_args, **_kwargs):
        raise ClusterError("connection refused")

    monkeypatch.setattr(first._server, "request", unreachable)
    begun = loop.time()
    with pytest.raises(LeaseLostError, match="renewed"):
        await first.hold()
    assert loop.time() - begun < 1.4


async def test_a_frozen_request_does_not_keep_the_lease(candidate, monkeypatch):
    first = candidate("first", duration=1.0)
    assert await _holds(first)

    async def hangs(*_args, **_kwargs):
        await asyncio.Event().wait()

    monkeypatch.setattr(first._server, "request", hangs)
    with pytest.raises(LeaseLostError):
        await asyncio.wait_for(first.hold(), 1.5)
