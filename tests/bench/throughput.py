# ruff: noqa: T201 - a bench prints its table
"""How much of a bare PyTorch loop's speed the worker keeps.

Trains the digit CNN of the lessons on MNIST-shaped images two ways in one process, in short blocks that take turns, so
that whatever else the machine does slows both alike: by the worker's own loop, and by a hand-written loop that is as fast
as we know (tensors in memory, fused optimizer, the loss never read). Prints medians of wall-clock and CPU time per step.

    python tests/bench/throughput.py [--blocks 20] [--steps 40] [--model cnn|mlp]
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from trainwright.api.job import read_spec
from trainwright.api.worker import WorkerConfig
from trainwright_worker.distributed import Group
from trainwright_worker.loop import fit
from trainwright_worker.place import Place
from trainwright_worker.report import Pulse, Reporter, first_report
from trainwright_worker.run import Run, prepare

BATCH = 64
SAMPLES = 12_800
ENDLESS = 1_000_000
MODELS: dict[str, dict[str, Any]] = {
    "cnn": {
        "layers": [
            {"conv2d": {"channels": 32, "kernelSize": 3, "activation": "relu"}},
            {"maxPool2d": {}},
            {"conv2d": {"channels": 64, "kernelSize": 3, "activation": "relu"}},
            {"maxPool2d": {}},
            {"conv2d": {"channels": 64, "kernelSize": 3, "activation": "relu"}},
            {"dense": {"units": 64, "activation": "relu"}},
            {"dense": {"units": 10}},
        ]
    },
    "mlp": {"name": "mlp", "args": {"hidden": [64, 64]}},
}


def write_images(folder: Path) -> None:
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (SAMPLES, 28, 28), dtype=np.uint8)
    labels = random.integers(0, 10, SAMPLES, dtype=np.uint8)
    (folder / "images").write_bytes(np.array([2051, SAMPLES, 28, 28], dtype=">u4").tobytes() + images.tobytes())
    (folder / "labels").write_bytes(np.array([2049, SAMPLES], dtype=">u4").tobytes() + labels.tobytes())


def make_run(folder: Path, model: str) -> Run:
    spec = {
        "model": MODELS[model],
        "dataset": {"idx": {"images": "images", "labels": "labels"}, "split": {"validation": 0, "test": 0}},
        "training": {"steps": ENDLESS, "globalBatchSize": BATCH},
    }
    config = WorkerConfig(
        namespace="bench", name="job", uid="u", spec=read_spec(spec), rendezvous_port=1,
        checkpoint_root=str(folder), data_root=str(folder),
    )  # fmt: skip
    place = Place(worker=0, attempt=1, round=1, local_rank=0, local_size=1, rank=0, size=1)
    pulse = Pulse()
    reporter = Reporter(None, first_report("u", 1, "bench"), pulse)
    run = prepare(config, place, Group(config, place, "localhost", torch.device("cpu")), pulse, reporter, None)
    run.clock.met = run.clock.saved = run.clock.logged = time.monotonic()
    return run


class WorkerLoop:
    """The worker's loop, a block at a time. Its meetings stay where they are: about one per second."""

    def __init__(self, run: Run) -> None:
        self._run = run

    def block(self, steps: int) -> None:
        # Ends the run after the block; evaluation has nothing to do and no checkpoint is written then.
        run = self._run
        run.agenda.total_steps = run.progress.step + steps
        run.saved_step = run.agenda.total_steps
        fit(run)


class BareLoop:
    """The same model on the same data, by hand."""

    def __init__(self, run: Run) -> None:
        data = run.dataset.splits.train
        self._inputs, self._targets = data.inputs, data.targets
        self._model = nn.Sequential(*[type(m)(*_arguments(m)) for m in run.model])
        self._optimizer = torch.optim.Adam(self._model.parameters(), lr=0.001, fused=True)
        self._batches = self._endless()

    def _endless(self) -> Any:
        while True:
            for indices in torch.split(torch.randperm(len(self._inputs)), BATCH):
                yield self._inputs[indices], self._targets[indices]

    def block(self, steps: int) -> None:
        loss_of = nn.CrossEntropyLoss()
        for _ in range(steps):
            inputs, targets = next(self._batches)
            self._optimizer.zero_grad()
            loss = loss_of(self._model(inputs), targets)
            loss.backward()
            self._optimizer.step()


def _arguments(module: nn.Module) -> tuple[Any, ...]:
    if isinstance(module, nn.Conv2d):
        return (module.in_channels, module.out_channels, module.kernel_size[0])
    if isinstance(module, nn.Linear):
        return (module.in_features, module.out_features)
    return (module.kernel_size,) if isinstance(module, nn.MaxPool2d) else ()


def measure(loop: WorkerLoop | BareLoop, steps: int) -> tuple[float, float]:
    """Return wall-clock and CPU seconds per step of one block."""
    wall, cpu = time.perf_counter(), time.thread_time()
    loop.block(steps)
    return (time.perf_counter() - wall) / steps, (time.thread_time() - cpu) / steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--blocks", type=int, default=20)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--model", choices=MODELS, default="cnn")
    options = parser.parse_args()
    torch.set_num_threads(1)  # One thread does all the work, so its CPU time is the whole cost.
    with tempfile.TemporaryDirectory() as name:
        write_images(Path(name))
        run = make_run(Path(name), options.model)
        loops = {"worker": WorkerLoop(run), "bare": BareLoop(run)}
        for loop in loops.values():
            loop.block(options.steps)
        times = [{name: measure(loop, options.steps) for name, loop in loops.items()} for _ in range(options.blocks)]
    print(f"{options.model}, batch {BATCH}: {options.blocks} blocks of {options.steps} steps each, in turn")
    print(f"{'':10}{'wall ms/step':>14}{'CPU ms/step':>14}")
    for name in loops:
        wall, cpu = (1000 * statistics.median(block[name][kind] for block in times) for kind in (0, 1))
        print(f"{name:10}{wall:14.3f}{cpu:14.3f}")
    for kind, what in enumerate(("wall", "CPU")):
        ratio = statistics.median(block["bare"][kind] / block["worker"][kind] for block in times)
        print(f"speed kept ({what}): {ratio:.3f}")


if __name__ == "__main__":
    main()
