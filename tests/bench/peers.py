# ruff: noqa: T201 - a bench prints its table
"""The worker beside Hugging Face's Trainer and Lightning: the same small GPT, data, optimizer and steps.

The small GPT is by default the one that nanoGPT's README trains on a CPU: 4 blocks, 4 heads, 128 features, 64 tokens, batch
12. The longer the arithmetic of a step, the less of it any loop can save: `--model gpt` has 128 tokens and batch 16, `--model
minigpt` 2 blocks of 64 features.

Each has a process of its own, as it would have, and they take turns. Of each round the first steps are left out, so that
only training counts and not how long it takes to begin. All use fused AdamW. There are two comparisons. Stripped: the bare
loops, without clipping, checkpoints, or a word about the loss, with one thread, so that CPU time is the whole cost. As
shipped: what a person gets who changes nothing: `trainwright run` with its agent, reports, records and checkpoints, beside
the Trainer and Lightning with their defaults, which log the loss, draw a progress bar, and save, all with as many threads as
they choose.

    python tests/bench/peers.py [--as-shipped] [--model minigpt|nanogpt|gpt] [--rounds 7] [--steps 100]
"""

import argparse
import json
import logging
import math
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - its usual name
from torch.utils.data import DataLoader, Dataset

sys.path.insert(0, str(Path(__file__).parent))
from workloads import BATCH, JOBS, WorkerLoop, all_samples, make_run, use_threads, write_data

from trainwright_worker.distributed.group import keep_freed_memory
from trainwright_worker.training.run import Run

WARM = 10
Cost = tuple[float, float]
"""Wall-clock and CPU seconds per step."""


def now() -> Cost:
    return time.perf_counter(), time.process_time()


def per_step(begun: Cost, ended: Cost, steps: int) -> Cost:
    return (ended[0] - begun[0]) / steps, (ended[1] - begun[1]) / steps


class Windows(Dataset[dict[str, Tensor]]):
    """Sequences and what follows each position, in memory."""

    def __init__(self, inputs: Tensor, targets: Tensor) -> None:
        self._inputs, self._targets = inputs, targets

    def __len__(self) -> int:
        return len(self._inputs)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"inputs": self._inputs[index], "labels": self._targets[index]}


def windows(run: Run) -> Windows:
    samples = all_samples(run)
    return Windows(samples.inputs, samples.targets)


class WithLoss(nn.Module):
    """A model that returns its loss, as Hugging Face's Trainer expects."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: Tensor, labels: Tensor) -> dict[str, Tensor]:
        return {"loss": F.cross_entropy(self.model(inputs).flatten(0, -2), labels.flatten())}


@dataclass(frozen=True)
class Task:
    """What is trained: a model of `workloads`, in a folder with its data, for so many steps after the warm ones."""

    name: str
    folder: Path
    steps: int
    shipped: bool

    @property
    def batch(self) -> int:
        return BATCH[self.name]

    def run(self) -> Run:
        return make_run(self.folder, self.name)


def with_worker(task: Task) -> Cost:
    if task.shipped:
        return with_everything(task)
    keep_freed_memory()  # as every rank does
    worker = WorkerLoop(task.run())
    worker.block(WARM)
    begun = now()
    worker.block(task.steps)
    return per_step(begun, now(), task.steps)


def with_everything(task: Task) -> Cost:
    """Return the mean wall-clock time of the steps of a whole `trainwright run`; that of the CPU is nobody's to tell."""
    spec = JOBS[task.name] | {"training": {"steps": WARM + task.steps, "globalBatchSize": task.batch}}
    meta = {"apiVersion": "trainwright.dev/v1alpha1", "kind": "TrainingJob", "metadata": {"name": "peer"}}
    Path(task.folder, "peer.yaml").write_text(json.dumps(meta | {"spec": spec}))
    command = [Path(sys.executable).with_name("trainwright"), "run", "peer.yaml", "--quiet", "--output=json"]
    said = subprocess.run(command, cwd=task.folder, capture_output=True, text=True, check=True).stdout
    return 1 / json.loads(said)["status"]["metrics"]["stepsPerSecond"], math.nan


def with_trainer(task: Task) -> Cost:
    from transformers import Trainer, TrainerCallback, TrainingArguments  # noqa: PLC0415 - slow

    ticks: list[Cost] = []

    class Ticks(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            ticks.append(now())

    run, stripped = task.run(), {}
    if not task.shipped:
        stripped = {
            "lr_scheduler_type": "constant", "max_grad_norm": 0.0, "save_strategy": "no", "logging_strategy": "no",
            "report_to": [], "disable_tqdm": True,
        }  # fmt: skip
    arguments = TrainingArguments(
        output_dir=str(task.folder), max_steps=WARM + task.steps, per_device_train_batch_size=task.batch, use_cpu=True,
        optim="adamw_torch_fused", learning_rate=0.001, remove_unused_columns=False, **stripped,
    )  # fmt: skip
    Trainer(WithLoss(run.learner.model), arguments, train_dataset=windows(run), callbacks=[Ticks()]).train()
    return per_step(ticks[WARM - 1], ticks[-1], task.steps)


def with_lightning(task: Task) -> Cost:
    import lightning  # noqa: PLC0415 - slow

    ticks: list[Cost] = []
    run, stripped = task.run(), {}
    if not task.shipped:
        stripped = {
            "logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False,
        }  # fmt: skip

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.inner = WithLoss(run.learner.model)

        def training_step(self, batch: dict[str, Tensor], _: int) -> Tensor:
            loss = self.inner(**batch)["loss"]
            if task.shipped:
                self.log("train_loss", loss, prog_bar=True)
            return loss

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.AdamW(self.parameters(), lr=0.001, weight_decay=0, fused=True)

        def on_train_batch_end(self, *_: Any) -> None:
            ticks.append(now())

    trainer = lightning.Trainer(
        max_steps=WARM + task.steps, accelerator="cpu", devices=1, default_root_dir=task.folder, **stripped
    )
    trainer.fit(Module(), DataLoader(windows(run), batch_size=task.batch, shuffle=True))
    return per_step(ticks[WARM - 1], ticks[-1], task.steps)


WAYS: dict[str, Callable[[Task], Cost]] = {
    "worker": with_worker,
    "HF Trainer": with_trainer,
    "Lightning": with_lightning,
}


def measure(way: str, options: argparse.Namespace) -> None:
    """Print what a step takes one way, as the last line of this process."""
    warnings.simplefilter("ignore")
    for name in ("lightning.pytorch", "transformers"):
        logging.getLogger(name).setLevel(logging.ERROR)
    if not options.as_shipped:
        use_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_data(folder)
        cost = WAYS[way](Task(options.model, folder, options.steps, options.as_shipped))
    print(json.dumps(cost))


def measure_apart(way: str) -> Cost:
    """Return what a step takes one way, in a process of its own."""
    command = [sys.executable, *sys.argv, "--way", way]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    wall, cpu = json.loads(said.splitlines()[-1])
    return wall, cpu


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--model", choices=("minigpt", "nanogpt", "gpt"), default="nanogpt")
    parser.add_argument("--as-shipped", action="store_true", help="with all that each does by default")
    parser.add_argument("--way", choices=WAYS, help="measure one way only, in this process")
    options = parser.parse_args()
    if options.way is not None:
        measure(options.way, options)
        return
    rounds = [{way: measure_apart(way) for way in WAYS} for _ in range(options.rounds)]
    print(
        f"{options.model}, batch {BATCH[options.model]}, {'as shipped' if options.as_shipped else 'stripped'}: "
        f"{options.rounds} rounds of {options.steps} steps each, in turn"
    )
    print(f"{'':12}{'wall ms/step':>14}{'CPU ms/step':>14}{'worker is faster, wall':>25}{'CPU':>8}")
    for way in WAYS:
        wall, cpu = (1000 * statistics.median(times[way][kind] for times in rounds) for kind in (0, 1))
        ratios = [statistics.median(times[way][kind] / times["worker"][kind] for times in rounds) for kind in (0, 1)]
        print(f"{way:12}{wall:14.3f}{cpu:14.3f}{ratios[0]:25.3f}{ratios[1]:8.3f}")


if __name__ == "__main__":
    main()
