"""Runs batches through the model: forward for evaluation, forward and backward to accumulate the gradient of a step.

If a process's share of a step is larger than a micro-batch, it runs in parts. The loss of a part is the sum of its
losses divided by the mean count of targets per rank in the whole step. So, after DDP or FSDP average gradients over
ranks, the gradients of all parts add up to the gradient of the step's mean loss, however the step is divided.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from trainwright.api.spec import TrainingJobSpec
from trainwright.api.spec.training import Precision
from trainwright_worker.batch import Batch, run_model
from trainwright_worker.data.sampler import Share
from trainwright_worker.distributed.group import Group
from trainwright_worker.distributed.parallel import IMAGES, order_of
from trainwright_worker.errors import UserError
from trainwright_worker.reporting.stopwatch import Stopwatch
from trainwright_worker.tasks.losses import Loss
from trainwright_worker.training.penalty import make_penalty

_AUTOCAST = {Precision.BF16: torch.bfloat16, Precision.FP16: torch.float16}


class Engine:
    """Runs batches through the model of a rank.

    Attributes:
        device: Device of the model.
        loss: The loss.
        micro: Maximum number of samples per forward pass; None for the whole share of a step.
        watch: Stopwatch for the parts of a step.
    """

    def __init__(
        self,
        spec: TrainingJobSpec,
        model: nn.Module,
        trained: nn.Module,
        group: Group,
        loss: Loss,
        scaler: GradScaler | None,
        micro: int | None = None,
    ) -> None:
        """Prepare the model for training.

        Args:
            spec: The job.
            model: The unwrapped model.
            trained: The model in the wrapper that averages gradients over ranks.
            group: All ranks.
            loss: The loss.
            scaler: Gradient scaler for fp16.
            micro: Maximum number of samples per forward pass; None for that of the spec.

        Raises:
            UserError: The spec compiles the model, but the worker has no compiler.
        """
        self._model, self._trained, self._group = model, trained, group
        training = spec.training
        self.device, self.loss, self._scaler = group.device, loss, scaler
        self.watch = Stopwatch(trained, group.device)
        self._order = order_of(model)
        self._penalty = make_penalty(spec.regularization, model.parameters())
        self.micro = micro or training.micro_batch_size
        dtype = _AUTOCAST.get(training.precision)
        self._autocast = None if dtype is None else torch.autocast(group.device.type, dtype)
        self._compiled = _compile(trained, group.device) if training.compile else None
        self._full = _full_size(spec, group, self.micro)
        # If every pass had only one sample, running statistics would never be updated.
        rarely_alone = self.micro != 1 and (training.full_batch or training.global_batch_size > group.size)
        self._norms = [part for part in model.modules() if isinstance(part, _BatchNorm) and rarely_alone]

    def forward(self, batch: Batch) -> Tensor:
        """Return the model's outputs as float32."""
        return self._run(self._model, batch)

    def accumulate(self, batch: Batch, share: Share | None = None) -> Tensor:
        """Add the gradient of this rank's share of a step to the weights' gradients.

        Args:
            batch: The samples.
            share: Numbers of samples on the ranks, if they differ.

        Returns:
            This rank's part of the step's mean loss, including penalties: a detached scalar on the device, whose mean
            over ranks is the loss of the step.
        """
        parts = self._cut(batch) if share is None else self._cut_as_others(batch, share)
        counts = [self.loss.count(part) * counted for part, counted in parts]
        total = self._mean_count(counts, share)
        losses = []
        for number, (part, counted) in enumerate(parts):
            with self._syncing(last=number == len(parts) - 1):
                losses.append(self._backward(part, counted / total, len(parts)))
        return losses[0] if len(losses) == 1 else torch.stack(losses).sum()

    def _backward(self, batch: Batch, weight: float | Tensor, parts: int) -> Tensor:
        with self._statistics_for(batch):
            summed = self.loss.total(self._run(self._choose(batch), batch), batch)
            # The weight is the seed of the backward pass, which saves the multiplications of a weighted loss.
            values, seeds = [summed], [weight if isinstance(weight, Tensor) else summed.new_full((), weight)]
            if self._penalty is not None:
                # The penalty is the same on every rank. For sharded weights, each rank's gradient is that of its own
                # shard.
                values.append(self._penalty())
                seeds.append(summed.new_full((), 1 / parts))
            self.watch.lap("forward")
            torch.autograd.backward(values, seeds if self._scaler is None else self._scaler.scale(seeds))
            self.watch.lap("backward")
        weighted = [value.detach() * seed for value, seed in zip(values, seeds, strict=True)]
        return weighted[0] if len(weighted) == 1 else torch.stack(weighted).sum()

    def _mean_count(self, counts: list[int | Tensor], share: Share | None) -> float | Tensor:
        """Return the mean count of targets per rank in a step; always positive, even if no target counts."""
        mine = sum(counts)
        if not isinstance(mine, Tensor):
            return mine if share is None else share.mean
        total = mine.to(self._group.device, torch.float64)
        if self._group.size > 1:
            # The number of samples of other ranks is known, but not how many of their targets count.
            dist.all_reduce(total)
            total = total / self._group.size
        return total.float().clamp(min=torch.finfo(torch.float32).tiny)

    @contextmanager
    def _statistics_for(self, batch: Batch) -> Iterator[None]:
        """Have batch normalization use its running statistics for a single remaining sample, which has no variance."""
        alone = self._norms if self._norms and len(batch) == 1 else ()
        learning = [norm for norm in alone if norm.training]
        for norm in learning:
            norm.eval()
        try:
            yield
        finally:
            for norm in learning:
                norm.train()

    def _run(self, model: nn.Module, batch: Batch) -> Tensor:
        if self._order != torch.contiguous_format and batch.input.dim() == IMAGES:
            batch = batch.with_input(batch.input.contiguous(memory_format=self._order))
        if self._autocast is None:
            return run_model(model, batch)
        with self._autocast:
            outputs = run_model(model, batch)
        return outputs.float()

    def _choose(self, batch: Batch) -> nn.Module:
        """Return the compiled model for batches of the usual size; for rare sizes, compiling would not pay off."""
        if self._compiled is None or self._full not in (None, len(batch)):
            return self._trained
        return self._compiled

    def _cut(self, batch: Batch) -> list[tuple[Batch, bool]]:
        """Split a batch into parts of at most a micro-batch, all of which count."""
        if self.micro is None or len(batch) <= self.micro:
            return [(batch, True)]
        return [(part, True) for part in batch.split(self.micro)]

    def _cut_as_others(self, batch: Batch, share: Share) -> list[tuple[Batch, bool]]:
        """Split a batch into as many parts as on every other rank, and return whether each counts.

        Sharded models need the same number of passes on every rank. The sizes of parts differ by at most one. If no
        sample is left for a part, it repeats one that does not count.
        """
        rounds = 1 if self.micro is None else -(-share.largest // self.micro)
        parts = []
        for places in torch.arange(share.own).tensor_split(rounds):
            begin, end = (int(places[0]), int(places[-1]) + 1) if len(places) else (0, 1)
            parts.append((batch.slice(begin, end), len(places) > 0))
        return parts

    def _syncing(self, *, last: bool) -> AbstractContextManager[None]:
        """Have DDP reduce gradients only with the last part of a step.

        FSDP reduces them with every part, because each rank would otherwise hold the gradient of the whole model.
        """
        trained = self._trained
        return trained.no_sync() if isinstance(trained, DistributedDataParallel) and not last else nullcontext()


def _full_size(spec: TrainingJobSpec, group: Group, micro: int | None) -> int | None:
    """Return the usual number of samples per forward pass; None if it is unknown, so that all sizes count as usual."""
    training = spec.training
    if training.full_batch:
        return training.micro_batch_size
    share, more = divmod(training.global_batch_size, group.size)
    return None if more else min(share, micro or share)


def _compile(model: nn.Module, device: torch.device) -> nn.Module:
    """Return the compiled model; the compilation happens with the first batch.

    Raises:
        UserError: There is no C++ compiler, which is needed on CPUs.
    """
    if device.type == "cpu":
        from torch._inductor.cpp_builder import get_cpp_compiler  # noqa: PLC0415 - slow, and rarely needed
        from torch._inductor.exc import InvalidCxxCompiler  # noqa: PLC0415

        try:
            get_cpp_compiler()
        except InvalidCxxCompiler as error:
            raise UserError(
                "spec.training.compile: true, but there is no C++ compiler on this worker",
                "remove it, or use an image with g++",
            ) from error
    compiled = torch.compile(model)
    return cast("nn.Module", compiled)  # torch.compile is annotated as returning a function.
