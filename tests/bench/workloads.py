"""The jobs that benches train: data that is written once, the worker's run over it, and the same by hand."""

import copy
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F  # noqa: N812 - its usual name

from trainwright.api.job import read_spec
from trainwright.api.worker import WorkerConfig
from trainwright_worker.batch import Batch, run_model
from trainwright_worker.distributed.group import Group, set_threads
from trainwright_worker.distributed.placement import RankPlacement
from trainwright_worker.rank.prepare import prepare
from trainwright_worker.reporting.pulse import Pulse
from trainwright_worker.reporting.report import Reporter, first_report
from trainwright_worker.training.loop import fit
from trainwright_worker.training.run import Run

ENDLESS = 1_000_000
IMAGES = 12_800
TEXTS = 2_000
WORDS = 64
LETTERS = 400_000
PLACE = RankPlacement(worker=0, attempt=1, round=1, local_rank=0, local_size=1, rank=0, size=1)

IDX = {"idx": {"images": "images", "labels": "labels"}, "split": {"validation": 0, "test": 0}}
CNN = [
    {"conv2d": {"channels": 32, "kernelSize": 3, "activation": "relu"}},
    {"maxPool2d": {}},
    {"conv2d": {"channels": 64, "kernelSize": 3, "activation": "relu"}},
    {"maxPool2d": {}},
    {"conv2d": {"channels": 64, "kernelSize": 3, "activation": "relu"}},
    {"dense": {"units": 64, "activation": "relu"}},
    {"dense": {"units": 10}},
]


def gpt(context: int, layers: int = 4, dimension: int = 128) -> dict[str, Any]:
    """Return a job that trains a GPT with heads of 32 features from random letters."""
    return {
        "task": "language-modeling",
        "model": {"name": "gpt", "args": {"dimension": dimension, "heads": dimension // 32, "layers": layers}},
        "dataset": {
            "text": {"path": "text.txt"},
            "tokenizer": {"name": "byte", "maxLength": context},
            "split": {"validation": 0, "test": 0},
        },
        "optimizer": {"name": "adamw"},
    }


JOBS: dict[str, dict[str, Any]] = {
    "mlp": {"model": {"name": "mlp", "args": {"hidden": [64, 64]}}, "dataset": IDX},
    "cnn": {"model": {"layers": CNN}, "dataset": IDX},
    "lstm": {
        "model": {"name": "lstm"},
        "dataset": {
            "labeledText": {"path": "reviews.jsonl"},
            "tokenizer": {"name": "word", "maxLength": WORDS},
            "split": {"validation": 0, "test": 0},
        },
    },
    "gpt": gpt(128),
    "nanogpt": gpt(64),
    "minigpt": gpt(64, layers=2, dimension=64),
}
BATCH = {"mlp": 64, "cnn": 64, "lstm": 64, "gpt": 16, "nanogpt": 12, "minigpt": 12}
"""Samples per step; nanogpt is what nanoGPT's README trains on a CPU."""


def write_data(folder: Path) -> None:
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (IMAGES, 28, 28), dtype=np.uint8)
    labels = random.integers(0, 10, IMAGES, dtype=np.uint8)
    (folder / "images").write_bytes(np.array([2051, IMAGES, 28, 28], dtype=">u4").tobytes() + images.tobytes())
    (folder / "labels").write_bytes(np.array([2049, IMAGES], dtype=">u4").tobytes() + labels.tobytes())
    lines = [
        json.dumps({"text": " ".join(f"w{word}" for word in random.integers(0, 5000, WORDS)), "label": str(number % 2)})
        for number in range(TEXTS)
    ]
    (folder / "reviews.jsonl").write_text("\n".join(lines))
    (folder / "text.txt").write_bytes(bytes(random.integers(97, 123, LETTERS, dtype=np.uint8)))


def use_threads(count: int) -> None:
    """Compute with so many threads, as a rank does that has so many cores."""
    os.environ["OMP_NUM_THREADS"] = str(count)
    set_threads(PLACE)


def make_config(folder: Path, name: str) -> WorkerConfig:
    spec = {"training": {"steps": ENDLESS, "globalBatchSize": BATCH[name]}, **JOBS[name]}
    return WorkerConfig(
        namespace="bench", name="job", uid="u", spec=read_spec(spec), rendezvous_port=29_411,
        checkpoint_root=str(folder / "checkpoints"), data_root=str(folder),
    )  # fmt: skip


def make_run(folder: Path, name: str) -> Run:
    config = make_config(folder, name)
    pulse = Pulse()
    reporter = Reporter(None, first_report("u", 1, "bench"), pulse)
    run = prepare(config, PLACE, Group(config, PLACE, "localhost", torch.device("cpu")), pulse, reporter, None)
    run.clock.begin(run.progress.step)
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


def all_samples(run: Run) -> Batch:
    """Return the whole training split in memory, ready for the model."""
    split = run.data.dataset.splits.train
    return split.take(torch.arange(len(split)), 0)


class BareLoop:
    """The same model on the same data by hand, as fast as we know: tensors in memory, fused optimizer, the loss never read."""

    def __init__(self, run: Run, name: str) -> None:
        self._data = all_samples(run)
        self._size = BATCH[name]
        self._model = copy.deepcopy(run.learner.model).train()
        kind = torch.optim.AdamW if "gpt" in name else torch.optim.Adam
        self._optimizer = kind(self._model.parameters(), lr=0.001, weight_decay=0, fused=True)
        self._batches = self._endless()

    def _endless(self) -> Iterator[Batch]:
        inputs, targets, mask = self._data.inputs, self._data.targets, self._data.mask
        while True:
            for indices in torch.split(torch.randperm(len(inputs)), self._size):
                yield Batch.of(inputs[indices], targets[indices], None if mask is None else mask[indices])

    def block(self, steps: int) -> None:
        for _ in range(steps):
            batch = next(self._batches)
            self._optimizer.zero_grad()
            outputs = run_model(self._model, batch)
            F.cross_entropy(outputs.flatten(0, -2), batch.target.flatten()).backward()
            self._optimizer.step()
