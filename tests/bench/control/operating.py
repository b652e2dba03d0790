"""The operator as its own process on the bench's control plane, and what it costs."""

import asyncio
import os
import sys
import time
import urllib.request
from pathlib import Path
from typing import Self

from plane import Plane, Process, free_port

NAMESPACE = "trainwright"


class Operator:
    """`trainwright operator`, set up as the chart does; may be killed and started again.

    Attributes:
        reports_port: Where its reports endpoint listens.
        started: When the newest process was started, on the monotonic clock.
    """

    def __init__(self, plane: Plane) -> None:
        self._plane = plane
        self.reports_port = free_port()
        self._health_port = free_port()
        self._process: Process | None = None

    @property
    def process(self) -> Process:
        """The newest process."""
        if self._process is None:
            raise RuntimeError("the operator was not started")
        self._process.check()
        return self._process

    def start(self) -> None:
        """Start a process; see `leading`."""
        environment = {
            "KUBECONFIG": self._plane.kubeconfig("operator"),
            "TRAINWRIGHT_OPERATOR_NAMESPACE": NAMESPACE,
            # The same over restarts, as of a container that is started again in its pod.
            "TRAINWRIGHT_POD_NAME": "operator-0",
            "TRAINWRIGHT_REPORTS_PORT": str(self.reports_port),
            "TRAINWRIGHT_HEALTH_PORT": str(self._health_port),
            # All who report have one address here.
            "TRAINWRIGHT_REPORTS_CONNECTIONS_PER_ADDRESS": "1024",
        }
        for name in [name for name in os.environ if name.startswith("TRAINWRIGHT_")]:
            del os.environ[name]
        command = [str(Path(sys.executable).with_name("trainwright")), "operator"]
        self._process = Process("operator", command, self._plane.folder, **environment)

    async def leading(self, seconds: float = 60) -> None:
        """Wait until it works."""
        deadline = time.monotonic() + seconds
        while self.metric("trainwright_leading") != 1:
            self.process.check()
            if time.monotonic() > deadline:
                raise TimeoutError(f"the operator does not lead: {self.process.log.read_text()[-2000:]}")
            await asyncio.sleep(0.1)

    def metric(self, name: str) -> float:
        """Return a metric of its /metrics by the beginning of its line; 0 if there is none."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self._health_port}/metrics", timeout=5) as answer:
                lines = answer.read().decode().splitlines()
        except OSError:
            return 0.0
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name))

    def kill(self) -> None:
        """SIGKILL it."""
        self.process.kill()

    def stop(self) -> None:
        """End it, if it runs."""
        if self._process is not None:
            self._process.stop()


class Meter:
    """What a process uses while the block runs: CPU seconds, and the wall time to set them against."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self.cpu = self.seconds = 0.0

    def __enter__(self) -> Self:
        self._begun = time.monotonic(), self._process.cpu_seconds()
        return self

    def __exit__(self, *_: object) -> None:
        begun, cpu = self._begun
        self.cpu, self.seconds = self._process.cpu_seconds() - cpu, time.monotonic() - begun

    @property
    def percent(self) -> float:
        """CPU in percent of a core."""
        return 100 * self.cpu / self.seconds
