"""Follows a job's passes on tensors without data: shapes, parameters, memory and arithmetic of a model of any size."""

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
    """The weights of a model, in bytes where nothing else is said.

    Attributes:
        parameters: Number of parameters.
        trainable: Number of those that are trained.
        all: All parameters.
        trained: Those that are trained; their gradients take as much.
        buffers: What is no parameter, such as running means.
        block: The largest block that is gathered at once when parameters are sharded.
        rest: What lies outside of blocks.
        gradient: The largest gradient that is whole at once then: of a block, or of all that lies outside of them.
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
    """Forward and backward pass of one micro-batch, in bytes where nothing else is said.

    Attributes:
        samples: Samples of the micro-batch.
        tokens: Positions of its sequences; 0 if inputs are none.
        saved: What the forward pass keeps for the backward pass, outputs included.
        peak: The most that lives at once besides weights and gradients, what the teacher works with included.
        casts: Copies of the weights in half precision.
        logits: The outputs.
        flops: Floating-point operations, those that gradient checkpointing repeats not counted.
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
    """A model that depends on values, so that it cannot be followed without data."""


class Gauge:
    """Measures a job. Models are built without data; nothing is allocated and no file is read."""

    def __init__(
        self, spec: TrainingJobSpec, facts: Facts, *, cuda: bool, root: str = "", teacher: ModelSpec | None = None
    ) -> None:
        """Remember what to measure.

        Args:
            spec: The job.
            facts: What its model must know of the data.
            cuda: Whether it is to run on a GPU, whose attention keeps no scores.
            root: Folder at which relative paths start, for the configuration beside pretrained weights.
            teacher: The model that it learns from.
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
            UnmeasurableError: It cannot be built without data.
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
        """Return the bytes of an optimizer's state, by letting it take a step without data.

        Raises:
            UnmeasurableError: It cannot take one.
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
        """Return what one micro-batch takes.

        Args:
            samples: Samples of the micro-batch.
            precision: Arithmetic of the passes.
            checkpointing: Whether activations are computed anew in the backward pass.
            length: Length of its sequences, by default that of the longest.

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
        # fp16 takes what bf16 takes.
        half = precision != Precision.FP32
        # A pass over a model like a live one: no generator of random numbers is touched.
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
        """Return the model on tensors without data. Call it inside of a `FakeTensorMode`."""
        model = self._without_weights(self._spec)
        if checkpointing:
            enable_gradient_checkpointing(model)
        return model

    def _build_teacher(self) -> nn.Module | None:
        """Return the teacher likewise; None if the job has none."""
        if self._teacher is None:
            return None
        return self._without_weights(self._teacher, build_teacher).eval().requires_grad_(requires_grad=False)

    def _without_weights(self, spec: TrainingJobSpec, make: Callable[..., nn.Module] = build) -> nn.Module:
        # Numbers that a library computes while it builds are real: timm reads its rates of dropout from a tensor.
        with _measurable(), unset_fake_temporarily(), torch.device("meta"):
            model = make(spec, self._facts, self._root)
        _leave_meta(model)
        return model


class Ones(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Answers a question after a value, which no tensor without data can, with 1 (or true)."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default:  # noqa: SLF001 - the name of an operator
            return 1.0 if args[0].is_floating_point() else 1
        return func(*args, **(kwargs or {}))


class _FusedAttention(TorchFunctionMode):
    """Leaves dropout out of attention: on GPUs a fused kernel does it, on CPUs only one that keeps all scores could."""

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
    """Return the mode in which nothing is allocated; an operation that only runs with data is an error."""
    return FakeTensorMode(allow_fallback_kernels=False, allow_non_fake_inputs=True)


@contextmanager
def _measurable() -> Iterator[None]:
    """Take whatever is no known mistake for a model that cannot be followed: its first real step says what is wrong."""
    try:
        yield
    except (WorkerError, UnmeasurableError):
        raise
    except Exception as error:
        raise UnmeasurableError(str(error).partition("\n")[0] or type(error).__name__) from error


@contextmanager
def _translated() -> Iterator[None]:
    """Tell a model that does not fit the data from one that cannot be followed."""
    with _measurable():
        try:
            yield
        except RuntimeError as error:
            text = str(error).partition("\n")[0]
            if type(error) is RuntimeError and any(word in text.lower() for word in _SHAPE_WORDS):
                raise UserError(
                    f"spec.model: does not fit the data: {text}", "compare its input with the data's"
                ) from error
            raise


def _leave_meta(model: nn.Module) -> None:
    """Replace the model's tensors by fake ones of the CPU, where all that depends on the device is as in a live model."""
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
    """Leave one weight of each shape in an optimizer's group, give it a gradient, and return how many it stands for.

    Optimizers remember the same of weights of one shape, and a step over a hundred equal blocks takes seconds.
    """
    first: dict[tuple[torch.Size, torch.dtype], Tensor] = {}
    alike = Counter(first.setdefault((weight.shape, weight.dtype), weight) for weight in group["params"])
    for weight in alike:
        weight.grad = torch.empty_like(weight)
    group["params"] = list(alike)
    group["fused"] = group["foreach"] = False  # fused kernels cannot run without data
    return alike


def _trained(weights: Iterable[Tensor]) -> int:
    return _bytes(weight for weight in weights if weight.requires_grad)


def _bytes(tensors: Any) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
