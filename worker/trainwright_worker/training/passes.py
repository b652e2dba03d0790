"""The passes of a batch through the model: forward to evaluate, forward and backward to learn.

A process whose share of a step is larger than a micro-batch passes it in parts. Every part's loss is weighted by how much
of the step it holds, so that the sum of the gradients is that of the whole share, however it is cut. Where ranks hold shares
of different sizes, weights are such that the mean of the ranks' gradients still is the gradient of the batch.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from typing import cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from trainwright.api.spec import TrainingJobSpec
from trainwright.api.spec.job import Task
from trainwright.api.spec.training import Precision
from trainwright_worker.batch import Batch, run_model
from trainwright_worker.data.sampler import Share
from trainwright_worker.distributed.group import Group
from trainwright_worker.distributed.parallel import IMAGES, order_of
from trainwright_worker.errors import UserError
from trainwright_worker.reporting.stopwatch import Stopwatch
from trainwright_worker.training.losses import Loss, count_targets, make_penalty

_AUTOCAST = {Precision.BF16: torch.bfloat16, Precision.FP16: torch.float16}


class Passes:
    """What a rank does with a batch.

    Attributes:
        device: Where it is done.
        loss: The loss.
        micro: Most samples that pass at once; None for whole shares.
        watch: Times the parts of a step.
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
        """Prepare.

        Args:
            spec: The job.
            model: The model.
            trained: The same in the wrapper that brings together the gradients of all ranks.
            group: All ranks.
            loss: The loss.
            scaler: Scales the loss in fp16.
            micro: Most samples that pass at once; None for what the spec says.

        Raises:
            UserError: The model is to be compiled where nothing can.
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
        # How many samples the others have follows from the step. How many tokens does not: they must say so.
        self._counted = spec.task == Task.LANGUAGE_MODELING and group.size > 1
        self._compiled = _compile(trained, group.device) if training.compile else None
        self._full = _full_size(spec, group, self.micro)
        # Where every pass is of one sample, nothing would ever be learned of its statistics.
        rarely_alone = self.micro != 1 and (training.full_batch or training.global_batch_size > group.size)
        self._norms = [part for part in model.modules() if isinstance(part, _BatchNorm) and rarely_alone]

    def forward(self, batch: Batch) -> Tensor:
        """Return the model's outputs, float32."""
        return self._run(self._model, batch)

    def learn(self, batch: Batch, share: Share | None = None) -> Tensor:
        """Add the gradient of this rank's share of a step to the weights' gradients.

        Args:
            batch: The samples.
            share: How many of them count, if ranks have different numbers.

        Returns:
            What has the mean loss of the step, penalties included, as its mean over ranks: a scalar on the device, without
            a gradient.
        """
        if share is None:
            parts = self._cut(batch)
            if len(parts) == 1 and not self._counted:
                return self._backward(batch, None, 1)
            counts = [count_targets(part) for part in parts]
        else:
            parts, counts = self._cut_as_others(batch, share)
        total = share.mean if share is not None and not self._counted else self._mean_over_ranks(sum(counts))
        if isinstance(total, Tensor):
            total = total.clamp(min=torch.finfo(torch.float32).tiny)  # A step may have no token that counts.
        losses = []
        for part, count in zip(parts, counts, strict=True):
            with self._syncing(last=part is parts[-1]):
                losses.append(self._backward(part, count / total, len(parts)))
        return torch.stack(losses).sum()

    def _backward(self, batch: Batch, weight: float | Tensor | None, parts: int) -> Tensor:
        with self._statistics_for(batch):
            value = self.loss(self._run(self._choose(batch), batch), batch)
            if weight is not None:
                value = value * weight
            if self._penalty is not None:
                # The same on every rank, whatever its share: of sharded weights, each rank's gradient is its own part of it.
                value = value + self._penalty() / parts
            scaled = value if self._scaler is None else self._scaler.scale(value)
            self.watch.lap("forward")
            scaled.backward()  # type: ignore[no-untyped-call]
            self.watch.lap("backward")
        return value.detach()

    @contextmanager
    def _statistics_for(self, batch: Batch) -> Iterator[None]:
        """Have batch normalization go by what it knows where a sample that was left over passes alone: it has no variance."""
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
        if self._order != torch.contiguous_format and batch.inputs.dim() == IMAGES:
            batch = replace(batch, inputs=batch.inputs.contiguous(memory_format=self._order))
        if self._autocast is None:
            return run_model(model, batch)
        with self._autocast:
            outputs = run_model(model, batch)
        return outputs.float()

    def _choose(self, batch: Batch) -> nn.Module:
        """Return the compiled model for batches of the usual size: compiling it for a rare one takes longer than that."""
        if self._compiled is None or self._full not in (None, len(batch)):
            return self._trained
        return self._compiled

    def _cut(self, batch: Batch) -> list[Batch]:
        if self.micro is None or len(batch) <= self.micro:
            return [batch]
        inputs, targets = torch.split(batch.inputs, self.micro), torch.split(batch.targets, self.micro)
        masks = [None] * len(inputs) if batch.mask is None else torch.split(batch.mask, self.micro)
        return [Batch(*part) for part in zip(inputs, targets, masks, strict=True)]

    def _cut_as_others(self, batch: Batch, share: Share) -> tuple[list[Batch], list[int | Tensor]]:
        """Return parts, as many as on every other rank, and what each counts: sharded models compute together.

        Parts are as large as each other, but for one sample. One for which there is none left repeats one for nothing.
        """
        rounds = 1 if self.micro is None else -(-share.largest // self.micro)
        parts: list[Batch] = []
        counts: list[int | Tensor] = []
        for places in torch.arange(share.own).tensor_split(rounds):
            begin, end = (int(places[0]), int(places[-1]) + 1) if len(places) else (0, 1)
            mask = None if batch.mask is None else batch.mask[begin:end]
            parts.append(Batch(batch.inputs[begin:end], batch.targets[begin:end], mask))
            counts.append(count_targets(parts[-1]) if len(places) else 0)
        return parts, counts

    def _mean_over_ranks(self, count: int | Tensor) -> int | float | Tensor:
        """Return how much a rank has on average, since the gradient is averaged over ranks."""
        if not self._counted:
            return count
        total = torch.as_tensor(count, device=self._group.device).clone()
        dist.all_reduce(total)
        return total / self._group.size

    def _syncing(self, *, last: bool) -> AbstractContextManager[None]:
        """Have ranks bring their gradients together only with the last part of a step.

        Sharded ones do with every part: until they have, each would hold the gradient of the whole model.
        """
        trained = self._trained
        return trained.no_sync() if isinstance(trained, DistributedDataParallel) and not last else nullcontext()


def _full_size(spec: TrainingJobSpec, group: Group, micro: int | None) -> int | None:
    """Return how many samples most forward passes of training have; None if that is not known or all have as many."""
    training = spec.training
    if training.full_batch:
        return training.micro_batch_size
    share, more = divmod(training.global_batch_size, group.size)
    return None if more else min(share, micro or share)


def _compile(model: nn.Module, device: torch.device) -> nn.Module:
    """Return the compiled model; it is compiled with the first batch.

    Raises:
        UserError: There is no C++ compiler, which code for CPUs is compiled with.
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
    return cast("nn.Module", compiled)  # torch says that it returns a function, and returns a module
