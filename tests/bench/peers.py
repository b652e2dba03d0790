# ruff: noqa: T201 - a bench prints its table
"""The worker beside Hugging Face's Trainer and Lightning: the same small GPT, data, optimizer and steps.

Rounds take turns in one process. Of each round the first steps are left out, so that only training counts and not how long
it takes to begin. All three use fused AdamW without clipping, write no checkpoint and log nothing.

    python tests/bench/peers.py [--rounds 5] [--steps 60]
"""

import argparse
import copy
import logging
import statistics
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

WARM = 10


class Windows(Dataset[dict[str, Tensor]]):
    """Sequences and what follows each position, in memory."""

    def __init__(self, inputs: Tensor, targets: Tensor) -> None:
        self._inputs, self._targets = inputs, targets

    def __len__(self) -> int:
        return len(self._inputs)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"inputs": self._inputs[index], "labels": self._targets[index]}


class WithLoss(nn.Module):
    """A model that returns its loss, as Hugging Face's Trainer expects."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: Tensor, labels: Tensor) -> dict[str, Tensor]:
        return {"loss": F.cross_entropy(self.model(inputs).flatten(0, -2), labels.flatten())}


def with_trainer(model: nn.Module, data: Windows, folder: str, steps: int) -> float:
    from transformers import Trainer, TrainerCallback, TrainingArguments  # noqa: PLC0415 - slow

    ticks: list[float] = []

    class Ticks(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            ticks.append(time.perf_counter())

    arguments = TrainingArguments(
        output_dir=folder, max_steps=WARM + steps, per_device_train_batch_size=BATCH["gpt"], use_cpu=True,
        optim="adamw_torch_fused", lr_scheduler_type="constant", learning_rate=0.001, max_grad_norm=0.0,
        save_strategy="no", logging_strategy="no", report_to=[], disable_tqdm=True, remove_unused_columns=False,
    )  # fmt: skip
    Trainer(WithLoss(copy.deepcopy(model)), arguments, train_dataset=data, callbacks=[Ticks()]).train()
    return (ticks[-1] - ticks[WARM - 1]) / steps


def with_lightning(model: nn.Module, data: Windows, folder: str, steps: int) -> float:
    import lightning  # noqa: PLC0415 - slow

    ticks: list[float] = []

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.inner = WithLoss(copy.deepcopy(model))

        def training_step(self, batch: dict[str, Tensor], _: int) -> Tensor:
            return self.inner(**batch)["loss"]

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.AdamW(self.parameters(), lr=0.001, weight_decay=0, fused=True)

        def on_train_batch_end(self, *_: Any) -> None:
            ticks.append(time.perf_counter())

    trainer = lightning.Trainer(
        max_steps=WARM + steps, accelerator="cpu", devices=1, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, default_root_dir=folder,
    )  # fmt: skip
    trainer.fit(Module(), DataLoader(data, batch_size=BATCH["gpt"], shuffle=True))
    return (ticks[-1] - ticks[WARM - 1]) / steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=60)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    for name in ("lightning.pytorch", "transformers"):
        logging.getLogger(name).setLevel(logging.ERROR)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        write_data(Path(folder))
        run = make_run(Path(folder), "gpt")
        samples = all_samples(run)
        data, fresh = Windows(samples.inputs, samples.targets), copy.deepcopy(run.model)
        worker = WorkerLoop(run)

        def with_worker() -> float:
            worker.block(WARM)
            begun = time.perf_counter()
            worker.block(options.steps)
            return (time.perf_counter() - begun) / options.steps

        ways: dict[str, Callable[[], float]] = {
            "worker": with_worker,
            "HF Trainer": lambda: with_trainer(fresh, data, folder, options.steps),
            "Lightning": lambda: with_lightning(fresh, data, folder, options.steps),
        }
        rounds = [{name: way() for name, way in ways.items()} for _ in range(options.rounds)]
    print(f"small GPT, batch {BATCH['gpt']}: {options.rounds} rounds of {options.steps} steps each, in turn")
    for name in ways:
        seconds = statistics.median(times[name] for times in rounds)
        ratio = statistics.median(times[name] / times["worker"] for times in rounds)
        print(f"{name:12}{1000 * seconds:10.3f} ms/step   worker is {ratio:.3f} times as fast")


if __name__ == "__main__":
    main()
