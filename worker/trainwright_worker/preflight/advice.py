"""Suggests changes that make a job fit: each one is computed to fit, and is accepted by the API."""

import math
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Final

from trainwright.api.figures import MemoryUse
from trainwright.api.job import FieldError, InvalidJobError, read_spec
from trainwright.api.spec import OptimizerSpec, TrainingJobSpec
from trainwright.api.spec.checkpoint import Parallelism
from trainwright.api.spec.optimization import OptimizerName
from trainwright.api.spec.training import Precision
from trainwright_worker.errors import UserError
from trainwright_worker.preflight.budget import Device, Setup, add_up
from trainwright_worker.preflight.measure import Gauge, PassCost, UnmeasurableError

MOST_PROCESSES: Final = 16_384
MOST_REMEDIES: Final = 4
_FRUGAL: Final = (OptimizerName.ADAFACTOR, OptimizerName.SGD)
"""Optimizers with little state, in order of preference: Adafactor behaves most like Adam."""

Words = tuple[str, ...]
"""Changes, each as a field of the spec and its value."""


@dataclass(frozen=True)
class Remedy:
    """A change that makes a job fit.

    Attributes:
        text: What to change.
        setup: The setup after the change.
        bytes: Memory per process after the change.
    """

    text: str
    setup: Setup
    bytes: int


class Need:
    """Memory and floating-point operations of a job under any setup. Each measurement is made once, when it is needed.

    Attributes:
        weights: Sizes of the model's weights.
        durable: Whether checkpoints are on storage that all workers share.
    """

    def __init__(self, gauge: Gauge, spec: TrainingJobSpec) -> None:
        self._gauge = gauge
        self._job, self._spec = spec, spec.optimizer
        self._refused = _mistakes(spec.to_wire())
        self.durable = spec.checkpoint.durable
        self.weights = gauge.weights()
        self._measured: dict[str, int] = {}

    def _states(self, optimizer: OptimizerSpec) -> int:
        """Return the size of an optimizer's state in bytes, over all shards."""
        key = optimizer.model_dump_json()  # A spec may contain lists, so it is not hashable.
        if key not in self._measured:
            self._measured[key] = self._gauge.optimizer(optimizer)
        return self._measured[key]

    def memory(self, setup: Setup, optimizer: OptimizerSpec | None = None) -> MemoryUse:
        """Return the memory of one process."""
        passes = self._gauge.passes(setup.micro_batch, setup.precision, checkpointing=setup.checkpointing)
        return add_up(self.weights, self._states(optimizer or self._spec), passes, setup)

    def kept(self, setup: Setup, optimizer: OptimizerSpec | None = None) -> int:
        """Return the memory of one process without activations: the lower limit for any batch size."""
        nothing = PassCost(samples=0, tokens=0, saved=0, peak=0, casts=0, logits=0, flops=0)
        return add_up(self.weights, self._states(optimizer or self._spec), nothing, setup).total

    def flops(self, setup: Setup, length: int | None = None) -> float:
        """Return the floating-point operations of a step over all processes, without those that checkpointing repeats.

        Args:
            setup: The setup.
            length: Average length of the sequences of a batch; None to assume the maximum length.
        """
        checkpointing = setup.checkpointing
        passes = self._gauge.passes(setup.micro_batch, setup.precision, checkpointing=checkpointing, length=length)
        # Some passes may be smaller than micro_batch.
        return passes.flops * setup.batch / setup.micro_batch

    def can_pass(self, setup: Setup) -> bool:
        """Return whether the model supports this micro-batch, and gradient checkpointing if the setup uses it."""
        try:
            self._gauge.passes(setup.micro_batch, setup.precision, checkpointing=setup.checkpointing)
        except (UserError, UnmeasurableError):
            return False
        return True

    def allows(self, setup: Setup, optimizer: OptimizerSpec | None = None) -> bool:
        """Return whether the changed job is valid; errors that the original job has too do not count.

        Assumes that a sharded job with several workers gets shared storage for its checkpoints.
        """
        raw: dict[str, Any] = self._job.to_wire()
        raw["training"] |= {"precision": setup.precision, "gradientCheckpointing": setup.checkpointing}
        if optimizer is not None:
            raw["optimizer"] = optimizer.to_wire()
        if setup.sharded:
            raw["parallelism"] = Parallelism.FSDP
            each = min(setup.processes, self._job.workers.processes_per_worker)
            raw.setdefault("workers", {}).update(processesPerWorker=each, count=-(-setup.processes // each))
            if not self.durable:
                raw.setdefault("checkpoint", {})["persistentVolumeClaim"] = "shared"
        return _mistakes(raw) <= self._refused

    def frugal(self) -> Iterator[tuple[str, OptimizerSpec]]:
        """Yield optimizers with less state than that of the job."""
        own = self._states(self._spec)
        for name in _FRUGAL:
            spec = OptimizerSpec(name=name, learning_rate=self._spec.learning_rate)
            with suppress(UnmeasurableError):
                if self._states(spec) < own:
                    yield str(name), spec


def remedies(need: Need, setup: Setup, device: Device) -> list[Remedy]:
    """Return changes that make the job fit the device, least intrusive first; empty if there are none.

    Args:
        need: What the job needs.
        setup: The setup of the spec.
        device: The device of each process.
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
    """Yield single changes that are sufficient."""
    for name, spec in need.frugal():
        if need.kept(setup, spec) <= available:
            yield from _if_it_fits(need, setup, available, f"optimizer.name: {name}", spec)
    if need.kept(setup) > available:
        return
    yield from _smaller_batch(need, setup, available, ())
    changed = replace(setup, checkpointing=True)
    if not setup.checkpointing:
        yield from _if_it_fits(need, changed, available, "training.gradientCheckpointing: true")
    if setup.precision == Precision.FP32:
        changed = replace(setup, precision=Precision.BF16)
        yield from _if_it_fits(need, changed, available, "training.precision: bf16")


def _several(need: Need, setup: Setup, available: int) -> Iterator[Remedy]:
    """Yield all changes that reduce activations together; if they do not suffice, with another optimizer as well."""
    if min([need.kept(setup), *(need.kept(setup, spec) for _, spec in need.frugal())]) > available:
        return
    frugal, words = _frugal(need, setup)
    smaller = [*_smaller_batch(need, frugal, available, words)]
    whole = [*_if_it_fits(need, frugal, available, _join(*words))]
    yield from (whole or smaller)
    if not whole and not smaller:
        least = _with_batch(frugal, _smallest(need, frugal))
        for name, spec in need.frugal():
            text = _join(*words, f"training.microBatchSize: {least.micro_batch}", f"optimizer.name: {name}")
            yield from _if_it_fits(need, least, available, text, spec)


def _sharded(need: Need, setup: Setup, device: Device) -> Iterator[Remedy]:
    """Yield the fewest processes with which the sharded job fits: first unchanged, then with changes to activations."""
    said: Words = ()
    if setup.precision == Precision.FP16:  # FSDP does not support gradient scaling.
        setup, said = replace(setup, precision=Precision.BF16), ("training.precision: bf16",)
    frugal, words = _frugal(need, setup)
    words = (*said, *words)
    smallest = _smallest(need, frugal)
    least = replace(frugal, micro_batch=smallest, accumulation=1)
    sized = (*words, f"training.microBatchSize: {smallest}") if setup.micro_batch > smallest else words
    fewest = MOST_PROCESSES + 1
    for base, extra in ((setup, said), (frugal, words), (least, sized)):
        found = _fewest(need, base, device.memory or 0)
        if found is not None and found.processes < fewest:
            fewest = found.processes
            where = f"{fewest} {device.name}" if device.cuda else f"{fewest} processes"
            if not need.durable and fewest > setup.sharing:
                extra = (*extra, "checkpoint.persistentVolumeClaim: NAME")  # noqa: PLW2901 - one change more
            text = f"parallelism: fsdp over {where}" + (f" with {_join(*extra)}" if extra else "")
            yield Remedy(text, found, need.memory(found).total)


def _fewest(need: Need, setup: Setup, available: int) -> Setup | None:
    count = max(2, setup.processes)
    count = count if setup.processes > 1 else 2 ** math.ceil(math.log2(count))
    while count <= MOST_PROCESSES:
        sharded = replace(setup, processes=count, sharded=True)
        # Check the cheap lower limit first, because measuring passes takes longer.
        if need.kept(sharded) <= available and _fits(need, sharded, available):
            return sharded
        count *= 2
    return None


def _frugal(need: Need, setup: Setup) -> tuple[Setup, Words]:
    """Return a setup with every reduction of activations except smaller batches, and the changes."""
    words = []
    if setup.precision == Precision.FP32:
        words.append("training.precision: bf16")
    precision = Precision.BF16 if setup.precision == Precision.FP32 else setup.precision
    changed = replace(setup, precision=precision)
    if not setup.checkpointing and need.can_pass(replace(changed, checkpointing=True)):
        words.append("training.gradientCheckpointing: true")
        changed = replace(changed, checkpointing=True)
    return changed, tuple(words)


def _smaller_batch(need: Need, setup: Setup, available: int, words: Words) -> Iterator[Remedy]:
    """Yield the largest micro-batch that fits and results from halving, if there is one."""
    smallest = _smallest(need, setup)
    if setup.micro_batch <= smallest:
        return
    least, most = (_total(need, _with_batch(setup, size)) for size in (smallest, setup.micro_batch))
    if least > available:
        return
    # Memory grows linearly with the batch, so these two measurements predict the size; the prediction is then checked.
    per_sample = max(1, most - least) / (setup.micro_batch - smallest)
    size = setup.micro_batch
    while size > smallest and (size == setup.micro_batch or size > smallest + (available - least) / per_sample):
        size = _halved(size)
    while size > 1 and not _fits(need, _with_batch(setup, size), available):
        size = _halved(size)
    yield from _if_it_fits(need, _with_batch(setup, size), available, _join(*words, f"training.microBatchSize: {size}"))


def _join(*words: str) -> str:
    """Return `a`, `a and b`, or `a, b and c`."""
    return " and ".join([part for part in (", ".join(words[:-1]), words[-1]) if part]) if words else ""


def _halved(size: int) -> int:
    """Return the largest divisor of `size` up to half of it, so that all passes of a step have the same size."""
    return next(part for part in range(size // 2, 0, -1) if size % part == 0)


def _with_batch(setup: Setup, size: int) -> Setup:
    return replace(setup, micro_batch=size, accumulation=setup.accumulation * setup.micro_batch // size)


def _smallest(need: Need, setup: Setup) -> int:
    """Return the smallest micro-batch that the model supports; batch normalization needs two samples."""
    return 1 if need.can_pass(_with_batch(setup, 1)) else 2


def _total(need: Need, setup: Setup, optimizer: OptimizerSpec | None = None) -> float:
    """Return the memory per process of the changed job; infinity if it is invalid or cannot be measured."""
    if not need.allows(setup, optimizer):
        return math.inf
    try:
        return need.memory(setup, optimizer).total
    except (UserError, UnmeasurableError):
        return math.inf


def _fits(need: Need, setup: Setup, available: int) -> bool:
    return _total(need, setup) <= available


def _if_it_fits(
    need: Need, setup: Setup, available: int, text: str, optimizer: OptimizerSpec | None = None
) -> Iterator[Remedy]:
    total = _total(need, setup, optimizer)
    if text and total <= available:
        yield Remedy(text, setup, int(total))


def _mistakes(raw: dict[str, Any]) -> set[FieldError]:
    """Return the validation errors of a spec."""
    try:
        read_spec(raw)
    except InvalidJobError as error:
        return set(error.errors)
    return set()
