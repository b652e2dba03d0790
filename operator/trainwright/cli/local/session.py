"""One local run from start to end: the operator's own control loop over a cluster of local processes."""

import asyncio
import contextlib
import logging
import signal
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from typing import Any

import structlog

from trainwright.api.status import ConditionType, Phase, TrainingJobStatus, read_status
from trainwright.build import Settings
from trainwright.cli.local.folder import RunFolder, UnwritableError, shorten
from trainwright.cli.local.memory import memory_excess
from trainwright.cluster.local import Folders, LocalCluster
from trainwright.cluster.port import JobKey
from trainwright.controller.controller import Controller
from trainwright.controller.store import Store
from trainwright.controller.tuning import Tuning
from trainwright.reports.certificates import create_authority
from trainwright.reports.server import ReportsServer

Job = dict[str, Any]

_HOST = "127.0.0.1"

# This loop has one job, and a status write is cheap, so progress is shown without delay.
_TUNING = Tuning(status_interval=0.5, news_interval=0.1, backoff_base=0.1, resync_interval=30)
_REPORT_SECONDS = 0.5


@dataclass(frozen=True)
class End:
    """How a session ended.

    Attributes:
        by_signal: The signal that stopped it; None if the job itself has ended.
        killed: Whether the workers were killed before they could save.
    """

    by_signal: signal.Signals | None = None
    killed: bool = False


@dataclass
class Watcher:
    """Saves every version of the job, shows its status, and sets an event when the job has settled.

    Attributes:
        folder: Where every version of the job is saved.
        show: Shows a status.
        note: Shows a text once.
        job: The newest version.
        settled: Set once the job has ended, or is suspended without workers, or can no longer be saved.
        unwritable: Why it can no longer be saved. The run ends then, because its status would be lost.
        warned_of_memory: Whether the warning that the workers exceed their memory limit was shown.
    """

    folder: RunFolder
    show: Callable[[TrainingJobStatus], None]
    note: Callable[[str], None]
    job: Job
    settled: asyncio.Event
    unwritable: UnwritableError | None = None
    warned_of_memory: bool = False

    def job_changed(self, job: Job, *, deleted: bool = False) -> None:
        """Save and show the job."""
        if deleted:
            return
        self.job = job
        try:
            self.folder.save(job)
        except UnwritableError as error:
            self.unwritable = error
            self.settled.set()
            return
        status = read_status(job.get("status"))
        suspended = status.condition(ConditionType.SUSPENDED)
        # A resumed run is Suspended until the first pass has seen that `suspend` is false.
        gone = job["spec"].get("suspend") and suspended is not None and suspended.status == "True"
        # A run is stopped by suspending it, and its workers may take a while. The last line of the command says how it ended.
        if status.phase != Phase.SUSPENDED or (job["spec"].get("suspend") and not gone):
            self.show(status)
        self._warn_of_memory(job, status)
        if gone or (status.phase is not None and status.phase.terminal):
            self.settled.set()

    def pod_changed(self, pod: Job, *, deleted: bool = False) -> None:
        """Do nothing: only the controller needs pods."""

    def _warn_of_memory(self, job: Job, status: TrainingJobStatus) -> None:
        excess = None if self.warned_of_memory else memory_excess(job, status)
        if excess is not None:
            self.warned_of_memory = True
            self.note(excess)


class Session:
    """A run that can be stopped, after its workers have saved, or killed.

    Args:
        job: The TrainingJob, with the UID and status of an earlier run if it is resumed.
        folders: The folders behind the paths that workers use.
        folder: The folder of the run.
        show: Shows a status.
        note: Shows a text once.
    """

    def __init__(
        self,
        job: Job,
        folders: Folders,
        folder: RunFolder,
        show: Callable[[TrainingJobStatus], None],
        note: Callable[[str], None],
    ) -> None:
        self._cluster = LocalCluster(folders)
        self._watcher = Watcher(folder, show, note, job, asyncio.Event())
        self._note = note
        self._asked_by: signal.Signals | None = None
        self._killed = asyncio.Event()

    async def run(self) -> tuple[Job, End]:
        """Train until the job ends or is stopped. Return the job as it is then, and how the session ended.

        Raises:
            UnwritableError: The run's folder could no longer be written. The workers have ended.
        """
        store = Store()
        self._cluster.watch(store)
        self._cluster.watch(self._watcher)
        async with _reports(self._cluster, store) as (url, certificate):
            settings = Settings(
                worker_image="localhost",
                reports_url=url,
                reports_ca=certificate,
                network_policy=False,
                rendezvous_port=_free_port(),
                metrics_port=None,
                report_interval=_REPORT_SECONDS,
                pods_leave_files=True,
            )
            controller = Controller(self._cluster, settings, store=store, tuning=_TUNING)
            job = self._cluster.submit(self._watcher.job)
            self._key = JobKey(job["metadata"]["namespace"], job["metadata"]["name"])
            with self._signals():
                await self._drive(controller)
        if self._watcher.unwritable is not None:
            raise self._watcher.unwritable
        return self._watcher.job, self._end()

    async def _drive(self, controller: Controller) -> None:
        """Run the loop until the job has settled, then end the remaining workers."""
        stop = asyncio.Event()
        loop = asyncio.create_task(controller.run(stop))
        waits = [asyncio.create_task(event.wait()) for event in (self._watcher.settled, self._killed)]
        try:
            await asyncio.wait([loop, *waits], return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
            stop.set()
            # The loop ends first, or it would take the killed workers for failures.
            await loop
            await self._cluster.close()

    def _end(self) -> End:
        phase = read_status(self._watcher.job.get("status")).phase
        if self._killed.is_set() or phase == Phase.SUSPENDED:
            return End(self._asked_by, killed=self._killed.is_set())
        return End()

    def _stop(self, by: signal.Signals) -> None:
        """Ask the workers to save and exit; on the second signal, kill them."""
        if self._asked_by is not None:
            self._killed.set()
            return
        self._asked_by = by
        again = "; Ctrl-C again kills them at once" if by == signal.SIGINT else ""
        self._note(f"stopping: the workers save and exit{again}")
        self._cluster.set_suspend(self._key, suspend=True)

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        for number in numbers:
            loop.add_signal_handler(number, self._stop, number)
        try:
            yield
        finally:
            for number in numbers:
                loop.remove_signal_handler(number)


@contextlib.contextmanager
def logging_to(folder: RunFolder, note: Callable[[str], None]) -> Iterator[None]:
    """Write the log of the loop and its libraries to the run's folder, so that the screen shows only the job.

    Args:
        folder: The run's folder.
        note: Called once if the loop itself fails. Otherwise the user would wait without knowing why.

    Raises:
        UnwritableError: No log can be opened.
    """
    troubled = False

    def tell_trouble(_logger: object, method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
        nonlocal troubled
        if method in {"error", "critical"} and not troubled:
            troubled = True
            note(f"Trainwright itself is in trouble: {event['event']}; see {shorten(folder.controller_log)}")
        return event

    with folder.open_controller_log() as log:
        logging.basicConfig(stream=log, level=logging.INFO, force=True)
        structlog.configure(
            processors=[
                tell_trouble,
                structlog.processors.add_log_level,
                structlog.processors.TimeStamper(fmt="iso"),
                structlog.processors.format_exc_info,
                structlog.processors.KeyValueRenderer(key_order=["timestamp", "level", "event"]),
            ],
            logger_factory=structlog.WriteLoggerFactory(log),
            cache_logger_on_first_use=False,
        )
        try:
            yield
        finally:
            logging.basicConfig(handlers=[logging.NullHandler()], force=True)
            structlog.reset_defaults()


def _free_port() -> int:
    """Return a port that is free now. If another program takes it first, the rendezvous fails and is tried again."""
    with socket.socket() as probe:
        probe.bind((_HOST, 0))
        port: int = probe.getsockname()[1]
        return port


@contextlib.asynccontextmanager
async def _reports(cluster: LocalCluster, store: Store) -> AsyncIterator[tuple[str, str]]:
    """Serve the reports endpoint on the loopback address only; yield its URL and the certificate of its CA."""
    authority = create_authority()
    server = ReportsServer(store, cluster.review_token, authority, [_HOST])
    port = await server.start(_HOST, 0)
    try:
        yield f"https://{_HOST}:{port}", authority.certificate.decode()
    finally:
        await server.close()
