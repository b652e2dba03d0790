# ruff: noqa: T201 - a bench prints its table
"""Whether anything is ever called hung that is not: normal jobs of several kinds, over and over, for an hour or as told.

The jobs are those in which nothing moves for a while although all is well: compilation, evaluations that take longer than
training, large checkpoints, first steps that allocate, steps of very different lengths, and all of it on cores that are
shared, since two jobs run at a time. Every job is `trainwright run` with real workers. It counts as an alarm if anything was
started again, if any log says that a rank has not moved, or if the job ends other than well.

    .venv/bin/python tests/bench/alarms.py [--minutes 60] [--at-once 2]
"""

import argparse
import itertools
import json
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

TRAINWRIGHT = Path(sys.executable).with_name("trainwright")
DECLARED = "has not moved"
"""What every agent logs when it holds a rank for hung."""
DIGITS = {"builtin": {"name": "digits"}}
TEXT = {"text": {"path": "text.txt"}, "tokenizer": {"name": "byte", "maxLength": 64}}
GPT = {"name": "gpt", "args": {"dimension": 64, "heads": 4, "layers": 4}}
CNN = {"name": "cnn", "args": {"channels": [16, 32], "hidden": [64]}}


def clusters(samples: int, features: int) -> dict[str, Any]:
    return {"synthetic": {"kind": "clusters", "samples": samples, "features": features}}


KINDS: dict[str, dict[str, Any]] = {
    "two workers, a checkpoint per second": {
        "model": CNN,
        "dataset": DIGITS,
        "training": {"epochs": 40, "globalBatchSize": 64},
        "checkpoint": {"everySeconds": 1},
        "workers": {"count": 2},
    },
    "sharded over two, then writes a text": {
        "task": "language-modeling",
        "model": GPT,
        "dataset": TEXT,
        "training": {"steps": 300, "globalBatchSize": 16},
        "parallelism": "fsdp",
        "checkpoint": {"everySteps": 50, "persistentVolumeClaim": "checkpoints"},
        "generation": {"prompts": ["the"], "maxTokens": 50},
        "workers": {"count": 2},
    },
    "compiled": {
        "model": {"name": "mlp", "args": {"hidden": [256, 256]}},
        "dataset": clusters(4000, 64),
        "training": {"epochs": 4, "globalBatchSize": 64, "compile": True},
        "workers": {"count": 1},
    },
    "evaluates longer than it trains": {
        "model": {"name": "mlp", "args": {"hidden": [2048, 2048]}},
        "dataset": {**clusters(60_000, 128), "split": {"validation": 0.8, "test": 0.1}},
        "training": {"steps": 60, "globalBatchSize": 64},
        "evaluation": {"everySteps": 20},
        "workers": {"count": 2},
    },
    "large checkpoints": {
        "model": {"name": "mlp", "args": {"hidden": [4096, 4096]}},
        "dataset": clusters(4000, 64),
        "training": {"steps": 120, "globalBatchSize": 32},
        "checkpoint": {"everySteps": 20, "keep": 2},
        "workers": {"count": 2},
    },
    "steps of seconds": {
        "model": {"name": "mlp", "args": {"hidden": [4096, 4096]}},
        "dataset": clusters(30_000, 128),
        "training": {"steps": 6, "globalBatchSize": 8192, "microBatchSize": 512},
        "workers": {"count": 2},
    },
    "two processes a worker": {
        "model": CNN,
        "dataset": DIGITS,
        "training": {"epochs": 20, "globalBatchSize": 32},
        "evaluation": {"everyEpochs": 1},
        "workers": {"count": 1, "processesPerWorker": 2},
    },
}


@dataclass
class Tally:
    """What came of the jobs so far."""

    jobs: Counter[str] = field(default_factory=Counter)
    steps: Counter[str] = field(default_factory=Counter)
    seconds: Counter[str] = field(default_factory=Counter)
    alarms: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def count(self, kind: str, job: dict[str, Any], logs: str, seconds: float) -> None:
        """Take in a job that has ended."""
        status = job["status"]
        restarts, phase = status.get("restarts", 0), status["phase"]
        with self.lock:
            self.jobs[kind] += 1
            self.steps[kind] += status["progress"]["step"]
            self.seconds[kind] += round(seconds)
            if restarts or phase != "Succeeded" or DECLARED in logs:
                self.alarms.append(
                    f"{kind}: {phase}, {restarts} restarts: {status.get('failure') or status['message']}"
                )


def run(kind: str, folder: Path) -> tuple[dict[str, Any], str]:
    """Run a job of that kind and return it as it ended, with all that was logged."""
    name = f"normal-{next(_NUMBERS)}"
    manifest = {"apiVersion": "trainwright.dev/v1alpha1", "kind": "TrainingJob", "metadata": {"name": name}}
    path = folder / f"{name}.yaml"
    path.write_text(json.dumps(manifest | {"spec": KINDS[kind]}))
    command = [TRAINWRIGHT, "run", path, "--output=json", "--logs"]
    ended = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    try:
        return json.loads(ended.stdout), ended.stderr
    except json.JSONDecodeError:
        raise RuntimeError(f"{kind}: {ended.stderr[-2000:]}") from None
    finally:
        shutil.rmtree(folder / "runs" / f"{name}-1", ignore_errors=True)


_NUMBERS = itertools.count(1)


def work(kinds: Iterator[str], folder: Path, until: float, tally: Tally) -> None:
    """Run jobs, one after the other, until that time."""
    while time.monotonic() < until:
        with tally.lock:
            kind = next(kinds)
        began = time.monotonic()
        job, logs = run(kind, folder)
        tally.count(kind, job, logs, time.monotonic() - began)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--at-once", type=int, default=2)
    options = parser.parse_args()
    tally, began = Tally(), time.monotonic()
    with tempfile.TemporaryDirectory(prefix="trainwright-bench-") as name:
        folder = Path(name)
        (folder / "text.txt").write_text("the quick brown fox jumps over the lazy dog\n" * 2000)
        arguments = (itertools.cycle(KINDS), folder, began + 60 * options.minutes, tally)
        with ThreadPoolExecutor(options.at_once) as pool:
            for working in [pool.submit(work, *arguments) for _ in range(options.at_once)]:
                working.result()
    print(f"{(time.monotonic() - began) / 60:.0f} minutes, {options.at_once} jobs at a time")
    print(f"{'':40}{'jobs':>6}{'steps':>9}{'s each':>8}")
    for kind, jobs in tally.jobs.items():
        print(f"{kind:40}{jobs:6}{tally.steps[kind]:9,}{tally.seconds[kind] / jobs:8.0f}")
    print(f"false alarms: {len(tally.alarms)}", *tally.alarms, sep="\n  ")
    return len(tally.alarms) > 0


if __name__ == "__main__":
    sys.exit(main())
