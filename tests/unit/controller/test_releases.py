"""Whether another release is still there, by its Lease."""

import asyncio

from memory_cluster import MemoryCluster
from virtual_time import run

from trainwright.cluster.port import RejectedError
from trainwright.controller.releases import GONE_AFTER, Releases

OTHER = "elsewhere/trainwright"
LEASE = ("elsewhere", "trainwright")


async def _watch(releases, cluster, seconds, *, renewing):
    for second in range(int(seconds)):
        if renewing:
            cluster.leases[LEASE] = f"{asyncio.get_running_loop().time()}"
        await releases.look(OTHER)
        if releases.is_gone(OTHER):
            return second
        await asyncio.sleep(1)
    return None


def test_a_release_that_renews_its_lease_is_there_and_one_that_stops_is_gone_after_a_while():
    async def scenario():
        cluster = MemoryCluster()
        releases = Releases(cluster)
        assert not releases.is_gone(OTHER)
        assert await _watch(releases, cluster, 5 * GONE_AFTER, renewing=True) is None
        assert GONE_AFTER - 15 <= await _watch(releases, cluster, 5 * GONE_AFTER, renewing=False) <= GONE_AFTER + 15
        # It is back.
        cluster.leases[LEASE] = "now"
        await asyncio.sleep(15)
        await releases.look(OTHER)
        assert not releases.is_gone(OTHER)

    run(scenario())


def test_a_release_without_a_lease_is_gone_after_a_while():
    async def scenario():
        cluster = MemoryCluster()
        assert await _watch(Releases(cluster), cluster, 5 * GONE_AFTER, renewing=False) >= GONE_AFTER - 1

    run(scenario())


def test_a_release_whose_lease_may_not_be_read_counts_as_there():
    async def scenario():
        cluster = MemoryCluster()

        async def refuse(*_):
            raise RejectedError("leases is forbidden")

        cluster.lease_renewal = refuse
        assert await _watch(Releases(cluster), cluster, 5 * GONE_AFTER, renewing=False) is None

    run(scenario())
