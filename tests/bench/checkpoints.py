# ruff: noqa: T201 - a bench prints its table
"""What a checkpoint costs training.

Blocking: how long the loop stands still for a save of ours (the copy of the state) and for `torch.save` of the same state
to the same disk, in turn. Share: how much slower steps get if a checkpoint is written every 30 s, which is the time that
saves take from training while they are written in the background, measured on blocks of steps with a save and without,
in turn. Medians.

    python tests/bench/checkpoints.py [--megabytes 200] [--rounds 7] [--threads 1] [--folder /tmp]
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parent))
from workloads import use_threads

from trainwright_worker.checkpoint.folder import CheckpointFolder
from trainwright_worker.checkpoint.state import TrainingProgress, gather_state, pack_rank
from trainwright_worker.checkpoint.writer import Writer
from trainwright_worker.distributed.group import count_cores
from trainwright_worker.storage import FolderStorage

INTERVAL = 30.0
"""Seconds between two checkpoints."""
BATCH = 16
WIDTH = 1024
LAYER_BYTES = 3 * 4 * (WIDTH * WIDTH + WIDTH)
"""Weights, and Adam's two moments."""


class Training:
    """A model of linear layers with its optimizer, and steps of it."""

    def __init__(self, megabytes: int) -> None:
        layers = max(1, megabytes * 1_000_000 // LAYER_BYTES)
        self.model = nn.Sequential(*[nn.Linear(WIDTH, WIDTH) for _ in range(layers)])
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=1e-5, fused=True)
        self.progress = TrainingProgress(0, torch.zeros((), dtype=torch.float64))
        self._inputs = torch.rand(BATCH, WIDTH)
        self.step()

    def step(self) -> None:
        self.model(self._inputs).square().mean().backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.progress.step += 1

    def state(self) -> dict[str, torch.Tensor]:
        return gather_state(self.model, self.optimizer, {}, [pack_rank(self.progress)])

    def save(self, writer: Writer) -> None:
        writer.save(self.state(), self.progress.to_facts())


def seconds(work: Callable[[], object]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def measure_blocking(training: Training, writer: Writer, path: Path, rounds: int) -> tuple[list[float], list[float]]:
    """Return how long saves of ours, and torch's, keep training waiting."""

    def save_with_torch() -> None:
        torch.save({"model": training.model.state_dict(), "optimizer": training.optimizer.state_dict()}, path)

    ours, theirs = [], []
    for _ in range(rounds):
        training.step()
        ours.append(seconds(lambda: training.save(writer)))
        writer.wait()
        training.step()
        theirs.append(seconds(save_with_torch))
    return ours, theirs


def measure_share(training: Training, writer: Writer, rounds: int) -> tuple[float, float, float]:
    """Return what a save costs while training goes on.

    Returns:
        Seconds that training loses, seconds until the save is durable, and seconds of a core that writing takes.
    """

    def block(steps: int) -> None:
        for _ in range(steps):
            training.step()

    # A block is about twice as long as a save takes to be written.
    training.save(writer)
    steps = 0
    while writer.busy:
        training.step()
        steps += 1
    steps = 2 * steps + 4
    lost, durable, cores = [], [], []
    for _ in range(rounds):
        plain = seconds(lambda: block(steps))
        begin, ended, busy = time.perf_counter(), 0.0, time.process_time() - time.thread_time()
        training.save(writer)
        for _ in range(steps):
            training.step()
            ended = ended or (0.0 if writer.busy else time.perf_counter())
        lost.append(time.perf_counter() - begin - plain)
        writer.wait()
        durable.append((ended or time.perf_counter()) - begin)
        cores.append(time.process_time() - time.thread_time() - busy)
    return statistics.median(lost), statistics.median(durable), statistics.median(cores)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--megabytes", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--folder", type=Path, default=None)
    options = parser.parse_args()
    use_threads(options.threads)
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        training = Training(options.megabytes)
        writer = Writer(CheckpointFolder(FolderStorage(name), keep=1), lambda _: None)
        writer.reserve(training.state())  # as training does after its first step
        writer.wait()
        first = seconds(lambda: training.save(writer))
        writer.wait()
        ours, theirs = measure_blocking(training, writer, Path(name, "state.pt"), options.rounds)
        lost, written, cores = measure_share(training, writer, options.rounds)
    size = sum(value.nbytes for value in training.state().values()) / 1e6
    mine, other = statistics.median(ours), statistics.median(theirs)
    print(f"state of {size:,.0f} MB, {options.rounds} rounds, {options.threads} thread(s)")
    print(f"{'':34}{'ms':>10}")
    print(f"{'torch.save':34}{1000 * other:10.1f}")
    print(f"{'our save, time that training waits':34}{1000 * mine:10.1f}")
    print(f"{'  the first one':34}{1000 * first:10.1f}")
    print(f"{'our save, until it is durable':34}{1000 * written:10.1f}")
    print(f"{'our save, time lost to training':34}{1000 * lost:10.1f}")
    print(f"{'our save, time of a core':34}{1000 * cores:10.1f}")
    print(f"waiting against torch.save: {statistics.median(a / b for a, b in zip(ours, theirs, strict=True)):.3f}")
    print(f"share of the run at one save per {INTERVAL:.0f} s: {100 * lost / INTERVAL:.2f} % (as measured)")
    # Training that needs every core loses what writing takes of them; the measured loss is that only on a quiet machine.
    print(
        f"share of all cores at one save per {INTERVAL:.0f} s: {100 * (mine + cores / count_cores()) / INTERVAL:.2f} %"
    )


if __name__ == "__main__":
    main()
