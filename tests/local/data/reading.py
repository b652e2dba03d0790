"""Reads more data than a bound of memory, and prints by how much the memory of this process grew (MiB)."""

import json
import sys
import threading
from pathlib import Path

import torch

from trainwright.api.job import read_spec
from trainwright_worker.data.dataset import measure, process, read
from trainwright_worker.data.loader import Loader
from trainwright_worker.data.sampler import Sampler


def memory() -> int:
    """Return what this process holds by itself, in bytes; pages of mapped files are the system's."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon"))
    return int(line.split()[1]) * 1024


def go_through(spec) -> int:
    """Read the whole training split once; return how many samples there were."""
    spec = read_spec(spec)
    splits, classes = read(spec, "")
    data = process(spec, splits, measure(spec, splits, classes, ""))
    count = len(data.splits.train)
    loader = Loader(data.splits.train, Sampler(count, min(16, count), 0, 1, 0), torch.device("cpu"))
    steps = range(count // min(16, count))
    return sum(len(batch) for batch, _ in zip(loader.batches(0), steps, strict=False))


def main() -> None:
    """Read a small part first, so that libraries and their pools do not count."""
    small, large = json.loads(sys.argv[1])
    go_through(small)
    peak = before = memory()
    done = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.005):
            peak = max(peak, memory())

    watcher = threading.Thread(target=watch)
    watcher.start()
    samples = go_through(large)
    done.set()
    watcher.join()
    sys.stdout.write(json.dumps({"samples": samples, "growth": (peak - before) / 2**20}) + "\n")


main()
