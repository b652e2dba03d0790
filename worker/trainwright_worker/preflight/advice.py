"""What would make a job fit: every suggestion is computed, none is given that would not help."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

from trainwright.api.figures import MemoryUse
from trainwright.api.spec import OptimizerSpec
from trainwright.api.spec.optimization import OptimizerName
from trainwright.api.spec.training import Precision
from trainwright_worker.errors import UserError
from trainwright_worker.preflight.budget import Device, Setup, add_up
from trainwright_worker.preflight.measure import Gauge, Passes, UnmeasurableError

MOST_PROCESSES: Final = 16_384
MOST_REMEDIES: Final = 4
_FRUGAL: Final = (OptimizerName.ADAFACTOR, OptimizerName.SGD)
"""Optimizers that remember little, the one that learns like Adam first."""

Words = tuple[str, ...]
"""Changes, each as the field of the spec and its value."""


@dataclass(frozen=True)
class Remedy:
    """A change that makes a job fit.

    Attributes:
        text: What to change.
        setup: How the job is run then.
        bytes: What each process needs then.
    """

    text: str
    setup: Setup
    bytes: int


class Need:
    """What a job needs under any setup. Measures only what is asked for, and that once."""

    def __init__(self, gauge: Gauge, optimizer: OptimizerSpec) -> None:
        self._gauge = gauge
        self._spec = optimizer
        self.weights = gauge.weights()
        self._measured: dict[str, int] = {}

    def _states(self, optimizer: OptimizerSpec) -> int:
        """Return the bytes that an optimizer remembers, all shards together."""
        key = optimizer.model_dump_json()  # A spec may hold lists, so it has no hash of its own.
        if key not in self._measured:
            self._measured[key] = self._gauge.optimizer(optimizer)
        return self._measured[key]

    def memory(self, setup: Setup, optimizer: OptimizerSpec | None = None) -> MemoryUse:
        """Return the memory of one process."""
        passes = self._gauge.passes(setup.micro_batch, setup.precision, checkpointing=setup.checkpointing)
        return add_up(self.weights, self._states(optimizer or self._spec), passes, setup)

    def kept(self, setup: Setup, optimizer: OptimizerSpec | None = None) -> int:
        """Return the memory of one process that no choice of activations changes."""
        nothing = Passes(samples=0, tokens=0, saved=0, peak=0, casts=0, logits=0, flops=0)
        return add_up(self.weights, self._states(optimizer or self._spec), nothing, setup).total

    def flops(self, setup: Setup) -> float:
        """Return the operations of a step over all processes, those that checkpointing repeats not counted."""
        passes = self._gauge.passes(setup.micro_batch, setup.precision, checkpointing=False)
        # Not every pass is as large as the largest.
        return passes.flops * setup.batch / setup.micro_batch

    def can_recompute(self, setup: Setup) -> bool:
        """Return whether the model has blocks whose activations can be computed anew."""
        try:
            self._gauge.passes(setup.micro_batch, setup.precision, checkpointing=True)
        except (UserError, UnmeasurableError):
            return False
        return True

    def frugal(self) -> Iterator[tuple[str, OptimizerSpec]]:
        """Yield optimizers that remember less than the job's own."""
        own = self._states(self._spec)
        for name in _FRUGAL:
            spec = OptimizerSpec(name=name, learning_rate=self._spec.learning_rate)
            if self._states(spec) < own:
                yield str(name), spec


def remedies(need: Need, setup: Setup, device: Device) -> list[Remedy]:
    """Return changes that make the job fit the device, the least intrusive first; empty if there is none.

    Args:
        need: What the job needs.
        setup: How it asks to be run.
        device: What each process has.
    """
    if device.memory is None:
        return []
    found = [*_single(need, setup, device.memory)]
    if not found:
        found = [*_several(need, setup, device.memory)]
    if not found or setup.processes > 1:
        found += _sharded(need, setup, device)
    return sorted(found, key=lambda remedy: remedy.setup.processes)[:MOST_REMEDIES]


def _single(need: Need, setup: Setup, available: int) -> Iterator[Remedy]:
    """Yield single changes that suffice."""
    for name, spec in need.frugal():
        if need.kept(setup, spec) <= available and need.memory(setup, spec).total <= available:
            yield Remedy(f"optimizer.name: {name}", setup, need.memory(setup, spec).total)
    if need.kept(setup) > available:
        return
    yield from _smaller_batch(need, setup, available, ())
    changed = replace(setup, checkpointing=True)
    if not setup.checkpointing and need.can_recompute(setup):
        yield from _if_it_fits(need, changed, available, "training.gradientCheckpointing: true")
    if setup.precision == Precision.FP32:
        changed = replace(setup, precision=Precision.BF16)
        yield from _if_it_fits(need, changed, available, "training.precision: bf16")


def _several(need: Need, setup: Setup, available: int) -> Iterator[Remedy]:
    """Yield all that saves activations at once, if that suffices; then with another optimizer too."""
    if min(need.kept(setup), *(need.kept(setup, spec) for _, spec in need.frugal())) > available:
        return
    frugal, words = _frugal(need, setup)
    smaller = [*_smaller_batch(need, frugal, available, words)]
    whole = [*_if_it_fits(need, frugal, available, _join(*words))]
    yield from (whole or smaller)
    if not whole and not smaller:
        least = replace(frugal, micro_batch=1, accumulation=setup.accumulation * setup.micro_batch)
        for name, spec in need.frugal():
            total = need.memory(least, spec).total
            if total <= available:
                text = _join(*words, "training.microBatchSize: 1", f"optimizer.name: {name}")
                yield Remedy(text, least, total)


def _sharded(need: Need, setup: Setup, device: Device) -> Iterator[Remedy]:
    """Yield the fewest processes over which the job fits when it is sharded: as it is, then with fewer activations."""
    frugal, words = _frugal(need, setup)
    least = replace(frugal, micro_batch=1, accumulation=1)
    sized = (*words, "training.microBatchSize: 1") if setup.micro_batch > 1 else words
    fewest = MOST_PROCESSES + 1
    for base, extra in ((setup, ()), (frugal, words), (least, sized)):
        found = _fewest(need, base, device.memory or 0)
        if found is not None and found.processes < fewest:
            fewest = found.processes
            where = f"{fewest} {device.name}" if device.cuda else f"{fewest} processes"
            text = f"parallelism: fsdp over {where}" + (f" with {_join(*extra)}" if extra else "")
            yield Remedy(text, found, need.memory(found).total)


def _fewest(need: Need, setup: Setup, available: int) -> Setup | None:
    count = max(2, setup.processes)
    count = count if setup.processes > 1 else 2 ** math.ceil(math.log2(count))
    while count <= MOST_PROCESSES:
        sharded = replace(setup, processes=count, sharded=True)
        # Measuring passes takes longer than this sum.
        if need.kept(sharded) <= available and need.memory(sharded).total <= available:
            return sharded
        count *= 2
    return None


def _frugal(need: Need, setup: Setup) -> tuple[Setup, Words]:
    """Return a setup that saves activations by all means but smaller batches, and what was changed."""
    words = []
    if setup.precision == Precision.FP32:
        words.append("training.precision: bf16")
    precision = Precision.BF16 if setup.precision == Precision.FP32 else setup.precision
    changed = replace(setup, precision=precision)
    if not setup.checkpointing and need.can_recompute(setup):
        words.append("training.gradientCheckpointing: true")
        changed = replace(changed, checkpointing=True)
    return changed, tuple(words)


def _smaller_batch(need: Need, setup: Setup, available: int, words: Words) -> Iterator[Remedy]:
    """Yield the largest halved micro-batch that fits, if any does."""
    if setup.micro_batch == 1:
        return
    least, most = (need.memory(_with_batch(setup, size)).total for size in (1, setup.micro_batch))
    if least > available:
        return
    # Activations grow evenly with the batch, so the size follows from these two; it is checked all the same.
    per_sample = max(1, most - least) / (setup.micro_batch - 1)
    size = setup.micro_batch
    while size > 1 and (size == setup.micro_batch or size > 1 + (available - least) / per_sample):
        size = _halved(size)
    while size > 1 and not _fits(need, _with_batch(setup, size), available):
        size = _halved(size)
    changed = _with_batch(setup, size)
    yield Remedy(_join(*words, f"training.microBatchSize: {size}"), changed, need.memory(changed).total)


def _join(*words: str) -> str:
    """Return `a`, `a and b`, or `a, b and c`."""
    return " and ".join([part for part in (", ".join(words[:-1]), words[-1]) if part]) if words else ""


def _halved(size: int) -> int:
    """Return the largest smaller number that divides `size`, so that the passes of a step stay equal."""
    return next(part for part in range(size // 2, 0, -1) if size % part == 0)


def _with_batch(setup: Setup, size: int) -> Setup:
    return replace(setup, micro_batch=size, accumulation=setup.accumulation * setup.micro_batch // size)


def _fits(need: Need, setup: Setup, available: int) -> bool:
    return need.memory(setup).total <= available


def _if_it_fits(need: Need, setup: Setup, available: int, text: str) -> Iterator[Remedy]:
    total = need.memory(setup).total
    if text and total <= available:
        yield Remedy(text, setup, total)
