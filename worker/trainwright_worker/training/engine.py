"""Runs batches through the model: forward to evaluate, forward and backward to add up the gradient of a step.

A process whose share of a step is larger than a micro-batch runs it in parts. What is differentiated is the sum of a part's
losses over what counts in the whole step, on all ranks: so the gradients of all parts add up to that of the step's mean loss,
however it is cut and shared. The wrapper of the model averages gradients over ranks, so each is scaled by their number.
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
        device: Where it computes.
        loss: The loss.
        micro: Most samples of a forward pass; None for whole shares.
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
            trained: The same in the wrapper that averages gradients over ranks.
            group: All ranks.
            loss: The loss.
            scaler: Scales the loss in fp16.
            micro: Most samples of a forward pass; None for what the spec says.

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
        self._compiled = _compile(trained, group.device) if training.compile else None
        self._full = _full_size(spec, group, self.micro)
        # Where every pass is of one sample, nothing would ever be learned of its statistics.
        rarely_alone = self.micro != 1 and (training.full_batch or training.global_batch_size > group.size)
        self._norms = [part for part in model.modules() if isinstance(part, _BatchNorm) and rarely_alone]

    def forward(self, batch: Batch) -> Tensor:
        """Return the model's outputs, float32."""
        return self._run(self._model, batch)

    def accumulate(self, batch: Batch, share: Share | None = None) -> Tensor:
        """Add the gradient of this rank's share of a step to the weights' gradients.

        Args:
            batch: The samples.
            share: How many of them count, if ranks have different numbers.

        Returns:
            This rank's part of the step's mean loss, penalties included: a scalar on the device, without a gradient, whose
            mean over ranks is that loss.
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
            # The backward pass begins with the weight: a weighted loss would cost two more multiplications.
            values, seeds = [summed], [weight if isinstance(weight, Tensor) else summed.new_full((), weight)]
            if self._penalty is not None:
                # The same on every rank, whatever its share: of sharded weights, each rank's gradient is its own part of it.
                values.append(self._penalty())
                seeds.append(summed.new_full((), 1 / parts))
            self.watch.lap("forward")
            torch.autograd.backward(values, seeds if self._scaler is None else self._scaler.scale(seeds))
            self.watch.lap("backward")
        weighted = [value.detach() * seed for value, seed in zip(values, seeds, strict=True)]
        return weighted[0] if len(weighted) == 1 else torch.stack(weighted).sum()

    def _mean_count(self, counts: list[int | Tensor], share: Share | None) -> float | Tensor:
        """Return how much of a step counts per rank, on average; at least a little, since nothing of it may count."""
        mine = sum(counts)
        if not isinstance(mine, Tensor):
            return mine if share is None else share.mean
        total = mine.to(self._group.device, torch.float64)
        if self._group.size > 1:
            # How many samples the others have follows from the step. How many of their targets count does not.
            dist.all_reduce(total)
            total = total / self._group.size
        return total.float().clamp(min=torch.finfo(torch.float32).tiny)

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
        if self._order != torch.contiguous_format and batch.input.dim() == IMAGES:
            batch = batch.with_input(batch.input.contiguous(memory_format=self._order))
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

    def _cut(self, batch: Batch) -> list[tuple[Batch, bool]]:
        """Return parts of at most a micro-batch, all of which count."""
        if self.micro is None or len(batch) <= self.micro:
            return [(batch, True)]
        return [(part, True) for part in batch.split(self.micro)]

    def _cut_as_others(self, batch: Batch, share: Share) -> list[tuple[Batch, bool]]:
        """Return parts, as many as on every other rank, and whether they count: sharded models compute together.

        Parts are as large as each other, but for one sample. One for which there is none left repeats one for nothing.
        """
        rounds = 1 if self.micro is None else -(-share.largest // self.micro)
        parts = []
        for places in torch.arange(share.own).tensor_split(rounds):
            begin, end = (int(places[0]), int(places[-1]) + 1) if len(places) else (0, 1)
            parts.append((batch.slice(begin, end), len(places) > 0))
        return parts

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
