"""The operator process: builds its components, and starts and stops them in order.

Start: probes, API server, CA, reports (refusing while not leading), Lease, first listing, watches. Stop: no new passes,
running ones end, the Lease is given back, watches and endpoints close. Losing the Lease or a watch that cannot go on ends
the run; the process restarts itself, or is restarted from outside, and is then in a known state.
"""

import asyncio
import os
import signal
import socket
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Any

import structlog
from aiohttp import web

from trainwright import __version__
from trainwright.build import Settings
from trainwright.cluster.kubernetes import KubernetesCluster
from trainwright.cluster.port import ClusterError
from trainwright.cluster.rest import ApiServer
from trainwright.controller import handlers
from trainwright.controller.controller import Controller
from trainwright.controller.health import health_app
from trainwright.controller.lease import Lease, LeaseLostError
from trainwright.controller.pause import pause
from trainwright.controller.settings import OperatorSettings
from trainwright.controller.store import Store
from trainwright.metrics import Metrics
from trainwright.reports.authority import AuthoritySecret
from trainwright.reports.certificates import KeyPair
from trainwright.reports.listener import Room
from trainwright.reports.server import ReportsServer

log = structlog.get_logger(__name__)

_RETRY = 2.0


class Operator:
    """One run of the operator.

    Args:
        settings: What the administrator decided.

    Attributes:
        told_to_stop: Whether a signal has told it to, also while it stops for another reason.
    """

    def __init__(self, settings: OperatorSettings) -> None:
        self.told_to_stop = False
        self._settings = settings
        self._stop = asyncio.Event()
        self._metrics = Metrics()
        self._store = Store()
        self._controller: Controller | None = None
        self._authority: KeyPair | None = None
        self._prepared = False

    async def run(self) -> None:
        """Work until told to stop by a signal.

        Raises:
            Exception: Something without which the operator cannot work.
        """
        log.info("operator starts", version=__version__, namespaces=self._settings.namespaces or "all")
        self._catch_signals()
        async with AsyncExitStack() as stack:
            await self._serve_health(stack)
            server = await ApiServer.connect(self._settings.connections, count=self._count_request)
            stack.push_async_callback(server.close)
            cluster = KubernetesCluster(server, self._settings.namespaces)
            if self._settings.reports_enabled:
                await self._serve_reports(stack, cluster, server)
            self._prepared = True
            lease = await self._lease(stack)
            if lease is None or await lease.acquire(self._stop):
                await self._work(cluster, lease)
        log.info("operator stopped")

    async def _work(self, cluster: KubernetesCluster, lease: Lease | None) -> None:
        """Lead: run the loop until the process is to stop or something it depends on ends."""
        controller = self._controller = Controller(
            cluster,
            self._settings_for_plan(),
            store=self._store,
            tuning=self._settings.tuning(),
            metrics=self._metrics,
        )
        self._metrics.leading.set(1)
        loop = asyncio.create_task(controller.run(self._stop), name="controller")
        watch = asyncio.create_task(self._watch(controller), name="watch")
        tasks = {loop, watch}
        if lease is not None:
            tasks.add(asyncio.create_task(lease.hold(), name="lease"))
        ended, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        failure = next((error for task in ended if (error := _error(task)) is not None), None)
        self._stop.set()
        if isinstance(failure, LeaseLostError):
            loop.cancel()  # another replica may take over at any moment, so running passes are not awaited
        await asyncio.wait({loop})
        self._metrics.leading.set(0)
        await _cancel(tasks - {loop, watch})
        if lease is not None and not isinstance(failure, LeaseLostError):
            await lease.release()
        await _cancel({watch})
        if failure is not None:
            raise failure

    async def _watch(self, controller: Controller) -> None:
        """Watch what can be listed, as it changes.

        Only once the first listing is there: kopf gives up for good on a CRD that is not installed yet, and on a namespace
        that it may not list.
        """
        await controller.synced.wait()
        while True:
            controller.reach_changed.clear()
            namespaces = [name for name in self._settings.namespaces if name not in controller.left_out]
            watching = asyncio.create_task(self._watch_these(namespaces, controller), name="watches")
            changed = asyncio.create_task(controller.reach_changed.wait(), name="reach")
            try:
                await asyncio.wait({watching, changed}, return_when=asyncio.FIRST_COMPLETED)
                if watching.done():
                    return watching.result()
            finally:
                await _cancel({watching, changed})

    async def _watch_these(self, namespaces: Sequence[str], controller: Controller) -> None:
        ready = asyncio.Event()
        reclaim = asyncio.create_task(self._reclaim_signals(ready), name="signals")
        try:
            await handlers.watch(self._store, namespaces, ready, controller.relisted)
        finally:
            reclaim.cancel()

    def _catch_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._be_told)

    def _be_told(self) -> None:
        self.told_to_stop = True
        self._stop.set()

    async def _reclaim_signals(self, ready: asyncio.Event) -> None:
        """Take the signals back from kopf, which would end the watches before the running passes."""
        await ready.wait()
        self._catch_signals()

    async def _serve_reports(self, stack: AsyncExitStack, cluster: KubernetesCluster, server: ApiServer) -> None:
        """Serve the endpoint, as soon as the API server has told which CA workers trust."""
        name, namespace = self._settings.reports_service, self._settings.operator_namespace
        secret = AuthoritySecret(server, namespace, self._settings.reports_secret)
        while (authority := await self._read_authority(secret)) is None:
            await pause(self._stop, _RETRY)
            if self._stop.is_set():
                return
        hosts = (name, f"{name}.{namespace}", f"{name}.{namespace}.svc", f"{name}.{namespace}.svc.cluster.local")
        reports = ReportsServer(
            self._store,
            cluster.review_token,
            authority,
            hosts,
            leading=lambda: self._controller is not None and self._controller.synced.is_set(),
            count=lambda result: self._metrics.reports.labels(result).inc(),
            room=Room(self._settings.reports_connections, self._settings.reports_connections_per_address),
        )
        self._authority = authority
        await reports.start(None, self._settings.reports_port)
        stack.push_async_callback(reports.close)
        renewal = asyncio.create_task(self._renew_authority_forever(secret, reports), name="CA renewal")
        stack.push_async_callback(_cancel, {renewal})

    async def _renew_authority_forever(self, secret: AuthoritySecret, reports: ReportsServer) -> None:
        """Replace the CA before its end, and take over one that another replica or an administrator has replaced."""
        while True:
            await asyncio.sleep(self._settings.reports_ca_interval)
            authority = await self._read_authority(secret)
            if authority is None or authority == self._authority:
                continue
            self._authority = authority
            reports.renew(authority)
            if self._controller is not None:
                self._controller.change_settings(self._settings_for_plan())
            log.info(
                "reports are served with another CA from now on; pods that trust the former one can report until its end"
            )

    async def _read_authority(self, secret: AuthoritySecret) -> KeyPair | None:
        try:
            return await secret.current()
        except ClusterError as error:
            log.warning("the reports CA cannot be read or written now", error=str(error))
            return None

    def _settings_for_plan(self) -> Settings:
        return self._settings.for_plan(self._authority.certificate.decode() if self._authority is not None else None)

    async def _serve_health(self, stack: AsyncExitStack) -> None:
        app = health_app(self._metrics, self._healthy, self._ready)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        await web.TCPSite(runner, None, self._settings.health_port).start()

    async def _lease(self, stack: AsyncExitStack) -> Lease | None:
        if not self._settings.lease:
            return None
        # The lease has its own connection. Otherwise a burst of other requests could delay a renewal and lose the lease.
        server = await ApiServer.connect(1, count=self._count_request)
        stack.push_async_callback(server.close)
        return Lease(
            server,
            self._settings.operator_namespace,
            self._settings.lease_name,
            self._settings.pod_name or f"{socket.gethostname()}-{os.getpid()}",
            duration=self._settings.lease_duration,
            renew=self._settings.lease_renew,
        )

    def _healthy(self) -> str | None:
        stuck = self._controller.queue.stuck if self._controller is not None else 0.0
        return f"jobs have been waiting for {stuck:.0f} s" if stuck > self._settings.stuck_after else None

    def _ready(self) -> str | None:
        return None if self._prepared and not self._stop.is_set() else "starting or stopping"

    def _count_request(self, verb: str, resource: str, code: str) -> None:
        self._metrics.api_requests.labels(verb, resource, code).inc()


def _error(task: "asyncio.Task[None]") -> BaseException | None:
    return None if task.cancelled() else task.exception()


async def _cancel(tasks: "set[asyncio.Task[Any]]") -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
