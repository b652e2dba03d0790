"""Measures a job's passes on fake tensors: shapes, parameters, memory and operations of a model of any size."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily
from torch.nn import functional as F  # noqa: N812 - its usual name
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from trainwright.api.spec import OptimizerSpec, TrainingJobSpec
from trainwright.api.spec.model import ModelSpec
from trainwright.api.spec.training import Precision
from trainwright_worker.batch import run_model
from trainwright_worker.distributed.parallel import shards_of
from trainwright_worker.errors import UserError, WorkerError
from trainwright_worker.facts import Facts
from trainwright_worker.models.build import build
from trainwright_worker.models.recompute import enable_gradient_checkpointing
from trainwright_worker.optim.optimizer import make_optimizer
from trainwright_worker.preflight.ledger import Ledger
from trainwright_worker.tasks.table import make_task
from trainwright_worker.training.teacher import build_teacher, compare, spec_of_teacher

_SHAPE_WORDS: Final = ("shape", "size", "dimension", "channel", "must match", "expected")


@dataclass(frozen=True)
class Weights:
    """Sizes of a model's weights, in bytes unless stated otherwise.

    Attributes:
        parameters: Number of parameters.
        trainable: Number of trainable parameters.
        all: All parameters.
        trained: Trainable parameters; their gradients have the same size.
        buffers: Buffers, such as running means.
        block: The largest block, which is gathered as a unit if parameters are sharded.
        rest: Parameters outside of blocks.
        gradient: The largest unsharded gradient with sharding: that of a block, or of all parameters outside of blocks.
        teacher: Parameters and buffers of the teacher.
    """

    parameters: int
    trainable: int
    all: int
    trained: int
    buffers: int
    block: int
    rest: int
    gradient: int
    teacher: int = 0


@dataclass(frozen=True)
class PassCost:
    """Cost of the forward and backward pass of one micro-batch, in bytes unless stated otherwise.

    Attributes:
        samples: Samples of the micro-batch.
        tokens: Number of tokens; 0 if the inputs are not tokens.
        saved: Tensors that the forward pass keeps for the backward pass, including the outputs.
        peak: Peak memory without weights and gradients, including the teacher's activations.
        casts: Copies of the weights in half precision.
        logits: The outputs.
        flops: Floating-point operations, without those that gradient checkpointing repeats.
        sample: Inputs and targets of one sample.
    """

    samples: int
    tokens: int
    saved: int
    peak: int
    casts: int
    logits: int
    flops: int
    sample: int = 0


class UnmeasurableError(Exception):
    """The model depends on values of tensors, so it cannot be measured on fake tensors."""


class Gauge:
    """Measures a job with models on fake tensors; allocates no memory for weights and reads no data."""

    def __init__(
        self, spec: TrainingJobSpec, facts: Facts, *, cuda: bool, root: str = "", teacher: ModelSpec | None = None
    ) -> None:
        """Prepare to measure a job.

        Args:
            spec: The job.
            facts: Input shape, number of outputs and vocabulary size of the data.
            cuda: Whether the job runs on GPUs, where attention does not keep its scores.
            root: Folder that relative paths are resolved against, to find the configuration of pretrained weights.
            teacher: The teacher model of distillation.
        """
        self._spec = spec
        self._task = make_task(spec)
        self._teacher = None if teacher is None else spec_of_teacher(spec, teacher)
        self._facts = facts
        self._cuda = cuda
        self._root = root
        self._passes: dict[tuple[int, Precision, bool, int | None], PassCost] = {}

    def weights(self) -> Weights:
        """Return the sizes of the model's weights.

        Raises:
            UserError: The model does not fit the data.
            UnmeasurableError: It cannot be built on fake tensors.
        """
        with _measurable(), _without_data():
            model, teacher = self._build(checkpointing=False), self._build_teacher()
        parameters = list(model.parameters())
        blocks = list(shards_of(model))
        everything, trained = _bytes(parameters), _trained(parameters)
        parts = [_trained(block.parameters()) for block in blocks]
        return Weights(
            parameters=sum(weight.numel() for weight in parameters),
            trainable=sum(weight.numel() for weight in parameters if weight.requires_grad),
            all=everything,
            trained=trained,
            buffers=_bytes(model.buffers()),
            block=max((_bytes(block.parameters()) for block in blocks), default=0),
            rest=everything - sum(_bytes(block.parameters()) for block in blocks),
            gradient=max([*parts, trained - sum(parts)]),
            teacher=0 if teacher is None else _bytes([*teacher.parameters(), *teacher.buffers()]),
        )

    def optimizer(self, spec: OptimizerSpec) -> int:
        """Return the size of an optimizer's state in bytes, measured by taking a step on fake tensors.

        Raises:
            UnmeasurableError: The optimizer cannot take a step on fake tensors.
        """
        with _measurable(), _without_data():
            model = self._build(checkpointing=False)
            optimizer = make_optimizer(spec, model)
            alike = [_step_for_one_of_each_shape(group) for group in optimizer.param_groups]
            with Ones():  # type: ignore[no-untyped-call]
                optimizer.step()
        return sum(
            count * _bytes(value for value in optimizer.state[weight].values() if isinstance(value, Tensor))
            for counts in alike
            for weight, count in counts.items()
        )

    def passes(self, samples: int, precision: Precision, *, checkpointing: bool, length: int | None = None) -> PassCost:
        """Return the cost of one micro-batch.

        Args:
            samples: Samples of the micro-batch.
            precision: Precision of the passes.
            checkpointing: Whether gradient checkpointing is enabled.
            length: Length of the sequences; by default, the maximum length.

        Raises:
            UserError: The model does not fit the data.
            UnmeasurableError: The passes depend on values.
        """
        key = samples, precision, checkpointing, length
        if key not in self._passes:
            with _translated():
                self._passes[key] = self._follow(*key)
        return self._passes[key]

    def _follow(self, samples: int, precision: Precision, checkpointing: bool, length: int | None) -> PassCost:  # noqa: FBT001
        facts = self._facts if length is None else replace(self._facts, shape=(length, *self._facts.shape[1:]))
        # fp16 needs the same memory as bf16.
        half = precision != Precision.FP32
        # Fake tensors do not advance the random generators.
        with _without_data(), _FusedAttention(enabled=self._cuda):
            model, teacher = self._build(checkpointing=checkpointing).train(), self._build_teacher()
            batch = self._task.example(facts, samples)
            tensors = [*batch.inputs.values(), *batch.targets.values()]
            fixed = [] if teacher is None else [*teacher.parameters(), *teacher.buffers()]
            ledger = Ledger(model.parameters(), [*model.buffers(), *fixed, *tensors])
            with ledger, Ones():  # type: ignore[no-untyped-call]
                with torch.autocast("cpu", torch.bfloat16, enabled=half):
                    outputs = run_model(model, batch)
                loss = self._task.example_loss(outputs.float(), batch, facts)
                if teacher is not None:
                    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=half):
                        shown = run_model(teacher, batch)
                    loss = loss + compare(outputs.float(), shown.float(), batch, temperature=1)
                ledger.begin_backward()
                loss.backward()  # type: ignore[no-untyped-call]
            gradients = ledger.numbers(weight.grad for weight in model.parameters() if weight.grad is not None)
        return PassCost(
            samples=samples,
            tokens=samples * facts.shape[0] if facts.vocabulary is not None else 0,
            saved=ledger.saved(),
            peak=ledger.peak(gradients),
            casts=ledger.peak_of_casts(),
            logits=outputs.numel() * outputs.element_size(),
            flops=ledger.flops,
            sample=_bytes(tensors) // samples,
        )

    def _build(self, *, checkpointing: bool) -> nn.Module:
        """Return the model on fake tensors. Call this inside a `FakeTensorMode`."""
        model = self._without_weights(self._spec)
        if checkpointing:
            enable_gradient_checkpointing(model)
        return model

    def _build_teacher(self) -> nn.Module | None:
        """Return the teacher on fake tensors; None if the job has none."""
        if self._teacher is None:
            return None
        return self._without_weights(self._teacher, build_teacher).eval().requires_grad_(requires_grad=False)

    def _without_weights(self, spec: TrainingJobSpec, make: Callable[..., nn.Module] = build) -> nn.Module:
        # Libraries may read values of tensors while they build a model: timm reads its dropout rates from one.
        with _measurable(), unset_fake_temporarily(), torch.device("meta"):
            model = make(spec, self._facts, self._root)
        _leave_meta(model)
        return model


class Ones(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Returns 1 (or true) when code reads the value of a fake tensor."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default:  # noqa: SLF001 - the name of an operator
            return 1.0 if args[0].is_floating_point() else 1
        return func(*args, **(kwargs or {}))


class _FusedAttention(TorchFunctionMode):
    """Removes dropout from attention: on CPUs, it would select a kernel that keeps all scores, unlike on GPUs."""

    def __init__(self, *, enabled: bool) -> None:
        self._enabled = enabled

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if self._enabled and func is F.scaled_dot_product_attention:
            named = dict(zip(("query", "key", "value", "attn_mask", "dropout_p"), args, strict=False))
            args, kwargs = (), {**named, **kwargs, "dropout_p": 0.0}
        return func(*args, **kwargs)


def _without_data() -> FakeTensorMode:
    """Return the mode of fake tensors, without memory; an operation that needs real data raises an error."""
    return FakeTensorMode(allow_fallback_kernels=False, allow_non_fake_inputs=True)


@contextmanager
def _measurable() -> Iterator[None]:
    """Turn unknown errors into UnmeasurableError; if the model has a real error, its first training step reports it."""
    try:
        yield
    except (WorkerError, UnmeasurableError):
        raise
    except Exception as error:
        raise UnmeasurableError(str(error).partition("\n")[0] or type(error).__name__) from error


@contextmanager
def _translated() -> Iterator[None]:
    """Raise UserError if the model does not fit the data, and UnmeasurableError if it cannot be measured."""
    with _measurable():
        try:
            yield
        except RuntimeError as error:
            text = str(error).partition("\n")[0]
            if type(error) is RuntimeError and any(word in text.lower() for word in _SHAPE_WORDS):
                raise UserError(
                    f"spec.model: does not fit the data: {text}", "compare the model's input shape with the data"
                ) from error
            raise


def _leave_meta(model: nn.Module) -> None:
    """Replace the model's meta tensors by fake tensors on the CPU, so that code that depends on the device works."""
    fresh: dict[int, tuple[Tensor, Tensor]] = {}
    for module in model.modules():
        own = [*module.named_parameters(recurse=False, remove_duplicate=False), *module.named_buffers(recurse=False)]
        for name, old in own:
            if id(old) not in fresh:
                new = torch.empty_strided(old.shape, old.stride(), dtype=old.dtype, device="cpu")
                wrapped = nn.Parameter(new, old.requires_grad) if isinstance(old, nn.Parameter) else new
                fresh[id(old)] = old, wrapped
            setattr(module, name, fresh[id(old)][1])


def _step_for_one_of_each_shape(group: dict[str, Any]) -> Counter[Tensor]:
    """Keep one weight of each shape in an optimizer's group, with a gradient, and return how many it represents.

    The size of an optimizer's state depends only on the shape, and a step over a hundred equal blocks would take
    seconds.
    """
    first: dict[tuple[torch.Size, torch.dtype], Tensor] = {}
    alike = Counter(first.setdefault((weight.shape, weight.dtype), weight) for weight in group["params"])
    for weight in alike:
        weight.grad = torch.empty_like(weight)
    group["params"] = list(alike)
    group["fused"] = group["foreach"] = False  # Fused kernels cannot run on fake tensors.
    return alike


def _trained(weights: Iterable[Tensor]) -> int:
    return _bytes(weight for weight in weights if weight.requires_grad)


def _bytes(tensors: Any) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
