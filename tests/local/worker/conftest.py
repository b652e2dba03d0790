"""Real worker processes, and an endpoint that collects their reports, for tests that kill them."""

import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from trainwright.api.job import read_spec
from trainwright.api.worker import Termination, WorkerConfig, WorkerReport
from trainwright_worker.agent.stacks import DUMP_SECONDS, DUMP_SIGNAL

PATIENCE = 90.0
LONGEST_LOG = 6000
"""Characters of a worker's log that are shown with a failure."""
LONGEST_GAP = 0.5
"""Seconds between two looks at a condition that count; more pass only while the whole machine stands still."""


def wait_for(condition: Callable[[], Any], what: str, seconds: float = PATIENCE) -> Any:
    """Return the first true value of `condition`, which gets so many seconds in which this process itself runs."""
    waited, looked = 0.0, time.monotonic()
    while not (value := condition()):
        now = time.monotonic()
        waited, looked = waited + min(now - looked, LONGEST_GAP), now
        if waited > seconds:
            raise AssertionError(f"timed out waiting for {what}")
        time.sleep(0.005)
    return value


JOBS = pytest.StashKey[list["Job"]]()


class Nursery:
    """The process that forks workers."""

    def __init__(self) -> None:
        script = Path(__file__).with_name("nursery.py")
        self._process = subprocess.Popen(
            [sys.executable, str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._started: list[int] = []
        self._codes: dict[int, int] = {}
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        for line in self._process.stdout:
            message = json.loads(line)
            if "started" in message:
                self._started.append(message["started"])
            else:
                self._codes[message["ended"]] = message["code"]

    def start(self, env: dict[str, str], log: Path) -> int:
        before = len(self._started)
        self._process.stdin.write(json.dumps({"env": env, "log": str(log)}) + "\n")
        self._process.stdin.flush()
        wait_for(lambda: len(self._started) > before or self._process.poll() is not None, "the nursery")
        assert len(self._started) > before, "the nursery has ended: the worker cannot be imported"
        return self._started[before]

    def code(self, pid: int) -> int | None:
        return self._codes.get(pid)

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        self._reader.join()
        self._process.stdin.close()
        self._process.stdout.close()


class Worker:
    """One worker of a job."""

    def __init__(
        self, nursery: Nursery, folder: Path, index: int, attempt: int, number: int, env: dict[str, str]
    ) -> None:
        self._nursery = nursery
        self._ending = folder / f"termination-{number}.json"
        self.log_file = folder / f"worker-{index}-{number}.log"
        env = {
            "TRAINWRIGHT_CONFIG": str(folder / "worker.json"),
            "TRAINWRIGHT_WORKER_INDEX": str(index),
            "TRAINWRIGHT_ATTEMPT": str(attempt),
            "TRAINWRIGHT_RENDEZVOUS_HOST": "127.0.0.1",
            "TRAINWRIGHT_POD_NAME": f"job-{index}",
            "TRAINWRIGHT_TERMINATION_LOG": str(self._ending),
            # Threads that spin at barriers crawl when tests share their cores with other work.
            "OMP_NUM_THREADS": "1",
            **env,
        }
        self.pid = nursery.start(env, self.log_file)

    @property
    def log(self) -> str:
        return self.log_file.read_text() if self.log_file.exists() else ""

    @property
    def ranks(self) -> list[int]:
        """Process ids of the training processes."""
        try:
            children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
            return [int(pid) for pid in children if Path(f"/proc/{pid}/comm").read_text().startswith("rank-")]
        except OSError:
            return []

    @property
    def ended(self) -> bool:
        return self._nursery.code(self.pid) is not None

    def wait(self, seconds: float = PATIENCE) -> int:
        try:
            wait_for(lambda: self.ended, f"worker {self.pid} to end", seconds)
        except AssertionError as error:
            raise AssertionError(f"{error}; its log:\n{self.log}") from None
        return self._nursery.code(self.pid)

    def kill(self, number: int = signal.SIGKILL) -> None:
        if not self.ended:
            os.kill(self.pid, number)

    @property
    def account(self) -> str:
        """What there is to know of it once a test has failed: how it ended or where its processes stand, and its log."""
        if self.ended:
            state = f"ended with exit code {self._nursery.code(self.pid)}"
        else:
            state = "\n".join(f"process {pid}:\n{_stacks_of(pid)}" for pid in self.ranks) or "has no processes"
        return f"{state}\nlog:\n{self.log[-LONGEST_LOG:]}"

    @property
    def termination(self) -> Termination:
        return Termination.model_validate_json(self._ending.read_text())


def _stacks_of(pid: int) -> str:
    """Return the stacks that a rank writes when its agent asks; nothing if it is not ready to or does not answer."""
    links = [link for link in Path(f"/proc/{pid}/fd").iterdir() if "/stacks-" in str(link.readlink())]
    if not links:
        return ""
    os.kill(pid, DUMP_SIGNAL)
    with suppress(AssertionError):
        wait_for(links[0].read_text, "the stacks", DUMP_SECONDS)
    return links[0].read_text()


class Job:
    """A job whose workers run on this machine, and what they have reported."""

    def __init__(
        self, nursery: Nursery, folder: Path, spec: dict[str, Any], config: dict[str, Any], env: dict[str, str]
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._env = env
        self.reports: list[WorkerReport] = []
        self._nursery = nursery
        self._numbers = itertools.count()
        self.workers: list[Worker] = []
        (folder / "token").write_text("secret")
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), _collector(self.reports))
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        reports = {
            "url": f"http://127.0.0.1:{self.server.server_port}/report",
            "caFile": "",
            "tokenFile": str(folder / "token"),
            "intervalSeconds": 0.05,
        }
        self.config = WorkerConfig.model_validate_json(
            json.dumps(
                {
                    "namespace": "default",
                    "name": "job",
                    "uid": "u1",
                    "spec": read_spec(spec).to_wire(),
                    "rendezvousPort": free_port(),
                    "checkpointRoot": str(folder / "checkpoints"),
                    "dataRoot": str(folder / "data"),
                    "reports": reports,
                    **config,
                }
            )
        )
        (folder / "worker.json").write_text(json.dumps(self.config.to_wire()))

    def start(self, index: int = 0, attempt: int = 1) -> Worker:
        worker = Worker(self._nursery, self.folder, index, attempt, next(self._numbers), self._env)
        self.workers.append(worker)
        return worker

    def run(self) -> list[Worker]:
        """Run all workers to their end, successfully."""
        workers = [self.start(index) for index in range(self.config.spec.workers.count)]
        for worker in workers:
            assert worker.wait() == 0, worker.log
        return workers

    @property
    def step(self) -> int:
        return self.reports[-1].step if self.reports else 0

    def wait_for_step(self, step: int) -> None:
        wait_for(lambda: self.step >= step, f"step {step}, at {self.step}")

    @property
    def results(self) -> Path:
        return Path(self.config.job_folder) / "results"

    @property
    def summary(self) -> dict[str, Any]:
        return json.loads((self.results / "results.json").read_text())

    @property
    def weights(self) -> bytes:
        return (self.results / "weights.safetensors").read_bytes()

    @property
    def checkpoints(self) -> list[Path]:
        return sorted((Path(self.config.job_folder) / "checkpoints").glob("step-*"))

    def close(self) -> None:
        for worker in self.workers:
            worker.kill()
        for worker in self.workers:
            worker.wait()
        self.server.shutdown()
        self.server.server_close()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _collector(reports: list[WorkerReport]) -> type[BaseHTTPRequestHandler]:
    class Collector(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            reports.append(WorkerReport.model_validate_json(body))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    return Collector


@pytest.fixture(scope="session")
def nursery() -> Iterator[Nursery]:
    process = Nursery()
    yield process
    process.close()


@pytest.fixture
def make_job(request: pytest.FixtureRequest, nursery: Nursery, tmp_path: Path) -> Iterator[Callable[..., Job]]:
    """Return a function that makes a job from a spec; whatever it has started is ended with the test."""
    jobs: list[Job] = []

    def make(spec: dict[str, Any], name: str = "job", env: dict[str, str] | None = None, **config: Any) -> Job:
        jobs.append(Job(nursery, tmp_path / name, spec, config, env or {}))
        return jobs[-1]

    request.node.stash[JOBS] = jobs
    yield make
    for job in jobs:
        job.close()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, Any]:
    """Show with a failure what has become of all workers: they still stand as they did."""
    report = yield
    if call.when == "call" and report.failed:
        for job in item.stash.get(JOBS, []):
            report.sections += [
                (f"{job.folder.name}: {worker.log_file.stem}", worker.account) for worker in job.workers
            ]
            report.sections += [(f"{job.folder.name}: reports", "\n".join(map(repr, job.reports[-3:])))]
    return report
