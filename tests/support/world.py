"""A cluster in memory with a controller working on it, in virtual time."""

import asyncio
from datetime import UTC, datetime, timedelta

from memory_cluster import MemoryCluster

from trainwright.build import Settings
from trainwright.controller.controller import Controller
from trainwright.controller.store import Store
from trainwright.controller.tuning import Tuning


class World:
    """See the module. Leaving it stops the controller in good order."""

    def __init__(self, cluster: MemoryCluster, tuning: Tuning | None = None, reports_url: str | None = None) -> None:
        self.cluster = cluster
        self.stop = asyncio.Event()
        cluster.sink = self.store = Store()
        settings, self.now = Settings(worker_image="worker", reports_url=reports_url), self._clock()
        self.controller = Controller(cluster, settings, store=self.store, tuning=tuning or Tuning(), now=self.now)
        self.task = asyncio.create_task(self.controller.run(self.stop))

    @staticmethod
    def _clock():
        # One that goes on when a controller dies and another one follows.
        born, loop = datetime.now(UTC), asyncio.get_running_loop()
        return lambda: born + timedelta(seconds=loop.time())

    async def __aenter__(self):
        return self

    async def __aexit__(self, *_):
        self.stop.set()
        await self.task

    def status(self):
        return self.cluster.job()["status"]

    def count(self, *write):
        return sum(entry[: len(write)] == write for entry in self.cluster.writes)

    async def until(self, holds, seconds=120):
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        while not holds():
            assert loop.time() < end, (self.cluster.job().get("status"), self.cluster.writes)
            await asyncio.sleep(0.1)

    async def die(self):
        """End the controller as a killed process would: nothing it was doing goes on."""
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)

    async def until_phase(self, phase):
        await self.until(lambda: (self.cluster.job().get("status") or {}).get("phase") == phase)
