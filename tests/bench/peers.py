# ruff: noqa: T201 - a bench prints its table
"""The worker beside Hugging Face's Trainer and Lightning: the same small GPT, data, optimizer and steps.

The small GPT is by default the one that nanoGPT's README trains on a CPU: 4 blocks, 4 heads, 128 features, 64 tokens, batch
12. The longer the arithmetic of a step, the less of it any loop can save: `--model gpt` has 128 tokens and batch 16.

Each has a process of its own, as it would have, and they take turns. Of each round the first steps are left out, so that
only training counts and not how long it takes to begin. All have one thread, so that CPU time is the whole cost, and use
fused AdamW without clipping, write no checkpoint and log nothing.

    python tests/bench/peers.py [--model nanogpt|gpt] [--rounds 7] [--steps 100]
"""

import argparse
import json
import logging
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - its usual name
from torch.utils.data import DataLoader, Dataset

sys.path.insert(0, str(Path(__file__).parent))
from workloads import BATCH, WorkerLoop, all_samples, make_run, write_data

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


def with_worker(run: Run, _batch: int, _folder: str, steps: int) -> Cost:
    keep_freed_memory()  # as every rank does
    worker = WorkerLoop(run)
    worker.block(WARM)
    begun = now()
    worker.block(steps)
    return per_step(begun, now(), steps)


def with_trainer(run: Run, batch: int, folder: str, steps: int) -> Cost:
    from transformers import Trainer, TrainerCallback, TrainingArguments  # noqa: PLC0415 - slow

    ticks: list[Cost] = []

    class Ticks(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            ticks.append(now())

    arguments = TrainingArguments(
        output_dir=folder, max_steps=WARM + steps, per_device_train_batch_size=batch, use_cpu=True,
        optim="adamw_torch_fused", lr_scheduler_type="constant", learning_rate=0.001, max_grad_norm=0.0,
        save_strategy="no", logging_strategy="no", report_to=[], disable_tqdm=True, remove_unused_columns=False,
    )  # fmt: skip
    Trainer(WithLoss(run.model), arguments, train_dataset=windows(run), callbacks=[Ticks()]).train()
    return per_step(ticks[WARM - 1], ticks[-1], steps)


def with_lightning(run: Run, batch: int, folder: str, steps: int) -> Cost:
    import lightning  # noqa: PLC0415 - slow

    ticks: list[Cost] = []

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.inner = WithLoss(run.model)

        def training_step(self, batch: dict[str, Tensor], _: int) -> Tensor:
            return self.inner(**batch)["loss"]

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.AdamW(self.parameters(), lr=0.001, weight_decay=0, fused=True)

        def on_train_batch_end(self, *_: Any) -> None:
            ticks.append(now())

    trainer = lightning.Trainer(
        max_steps=WARM + steps, accelerator="cpu", devices=1, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, default_root_dir=folder,
    )  # fmt: skip
    trainer.fit(Module(), DataLoader(windows(run), batch_size=batch, shuffle=True))
    return per_step(ticks[WARM - 1], ticks[-1], steps)


WAYS: dict[str, Callable[[Run, int, str, int], Cost]] = {
    "worker": with_worker,
    "HF Trainer": with_trainer,
    "Lightning": with_lightning,
}


def measure(way: str, model: str, steps: int) -> None:
    """Print what a step takes one way, as the last line of this process."""
    warnings.simplefilter("ignore")
    for name in ("lightning.pytorch", "transformers"):
        logging.getLogger(name).setLevel(logging.ERROR)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        write_data(Path(folder))
        cost = WAYS[way](make_run(Path(folder), model), BATCH[model], folder, steps)
    print(json.dumps(cost))


def measure_apart(way: str, model: str, steps: int) -> Cost:
    """Return what a step takes one way, in a process of its own."""
    command = [sys.executable, __file__, "--way", way, "--model", model, "--steps", str(steps)]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    wall, cpu = json.loads(said.splitlines()[-1])
    return wall, cpu


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--model", choices=("nanogpt", "gpt"), default="nanogpt")
    parser.add_argument("--way", choices=WAYS, help="measure one way only, in this process")
    options = parser.parse_args()
    if options.way is not None:
        measure(options.way, options.model, options.steps)
        return
    rounds = [{way: measure_apart(way, options.model, options.steps) for way in WAYS} for _ in range(options.rounds)]
    print(
        f"{options.model}, batch {BATCH[options.model]}: {options.rounds} rounds of {options.steps} steps each, in turn"
    )
    print(f"{'':12}{'wall ms/step':>14}{'CPU ms/step':>14}{'worker is faster, wall':>25}{'CPU':>8}")
    for way in WAYS:
        wall, cpu = (1000 * statistics.median(times[way][kind] for times in rounds) for kind in (0, 1))
        ratios = [statistics.median(times[way][kind] / times["worker"][kind] for times in rounds) for kind in (0, 1)]
        print(f"{way:12}{wall:14.3f}{cpu:14.3f}{ratios[0]:25.3f}{ratios[1]:8.3f}")


if __name__ == "__main__":
    main()
