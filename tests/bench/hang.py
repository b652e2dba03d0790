"""How long a job of two workers stands still: from SIGSTOP of a rank until it is declared hung, from SIGKILL to the next step.

    .venv/bin/python tests/bench/hang.py [repetitions]

Real workers on this machine, started by fork as in the local tests. What is wanted: a stopped rank is declared hung within
max(15 s, 5 x p99 of its steps), and after a SIGKILL the next step comes within 5 s.
"""

import os
import re
import signal
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "local"))

from worker.conftest import Job, Nursery, wait_for

SPEC = {
    "model": {"name": "cnn", "args": {"channels": [8], "hidden": [32]}},
    "dataset": {"builtin": {"name": "digits"}},
    "training": {"steps": 10_000_000, "globalBatchSize": 64},
    "checkpoint": {"everySeconds": 5},
    "evaluation": {"everySteps": 10_000_000},
    "workers": {"count": 2},
    "restart": {"limit": 1000},
}
WARM_SECONDS = 4.0


def launches(job: Job) -> set[str]:
    """Return the launches that have taken a step."""
    return {report.launch for report in job.reports if report.step > (report.resumed_from_step or 0)}


def disturb(job: Job, number: signal.Signals) -> tuple[float, float]:
    """Send a signal to a rank of worker 1; return seconds until it is declared hung (0 if it never is) and to the next step."""
    known, worker = len(launches(job)), job.workers[1]
    steady = time.monotonic() + WARM_SECONDS
    wait_for(lambda: time.monotonic() > steady, "steady training")
    declared = worker.log.count("has not moved")
    began = time.monotonic()
    os.kill(worker.ranks[0], number)
    seconds = 0.0
    if number == signal.SIGSTOP:
        wait_for(lambda: worker.log.count("has not moved") > declared, "the hang to be declared")
        seconds = time.monotonic() - began
    wait_for(lambda: len(launches(job)) > known, "the next launch")
    return seconds, time.monotonic() - began


def main() -> None:
    """Measure and print."""
    repetitions = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    nursery = Nursery()
    with tempfile.TemporaryDirectory(prefix="trainwright-bench-") as folder:
        job = Job(nursery, Path(folder), SPEC, {}, {})
        for index in range(2):
            job.start(index)
        job.wait_for_step(100)
        killed = [disturb(job, signal.SIGKILL)[1] for _ in range(repetitions)]
        stopped = [disturb(job, signal.SIGSTOP) for _ in range(repetitions)]
        messages = re.findall(r"rank \d+ .*hangs.*", job.workers[1].log)
        job.close()
    nursery.close()
    show("SIGKILL of a rank to a report of the next step", killed, "5 s")
    show("SIGSTOP of a rank to declared hung", [seconds for seconds, _ in stopped], "max(15 s, 5 x p99)")
    show("SIGSTOP of a rank to a report of the next step", [seconds for _, seconds in stopped], "")
    print(messages[-1] if messages else "nothing was declared hung")  # noqa: T201


def show(what: str, seconds: list[float], wanted: str) -> None:
    """Print a line of the result."""
    print(  # noqa: T201
        f"{what}: median {statistics.median(seconds):.2f} s of {len(seconds)} "
        f"({min(seconds):.2f} to {max(seconds):.2f})" + (f", wanted at most {wanted}" if wanted else "")
    )


if __name__ == "__main__":
    main()
