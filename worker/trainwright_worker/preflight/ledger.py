"""Tracks live memory and counts floating-point operations while a model runs on fake tensors (without data)."""

import weakref
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

_CAST: Final = torch.ops.aten._to_copy.default  # noqa: SLF001 - the name of an operator
_RECURRENT: Final = torch.ops.aten.mkldnn_rnn_layer.default
_CONVOLUTION: Final = torch.ops.aten.convolution_backward
_WORKSPACE: Final = 15.5
"""Workspace that oneDNN keeps of an LSTM layer for its backward pass, in multiples of the layer's output. Measured at
several sizes, because torch knows it only after the layer has run."""


@dataclass(frozen=True)
class Entry:
    """A storage that was allocated (positive bytes) or freed (negative)."""

    number: int
    bytes: int


class Ledger(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Records every storage that operations allocate, and when it is freed.

    Works on tensors of `FakeTensorMode`, so it can track a model of any size. It does not see scratch space that a
    kernel allocates and frees within one operation.

    Attributes:
        flops: Floating-point operations of matrix products, convolutions, attention and recurrent layers so far,
            without those that gradient checkpointing repeats in the backward pass.
    """

    def __init__(self, weights: Iterable[Tensor], others: Iterable[Tensor] = ()) -> None:
        """Start with an empty record.

        Args:
            weights: The model's parameters, which are counted elsewhere. Their casts to another precision are counted
                here, separately.
            others: Other tensors that are counted elsewhere.
        """
        super().__init__()  # type: ignore[no-untyped-call]
        self._weights = {_key(weight) for weight in weights}
        # References keep the addresses of their storages from being reused.
        self._held = [*weights, *others]
        self._known = self._weights | {_key(tensor) for tensor in others}
        self._live: dict[int, tuple[int, weakref.ref[torch.UntypedStorage]]] = {}
        self._entries: list[Entry] = []
        self._casts: set[int] = set()
        self._backward_from: int | None = None
        self.flops = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run the operation and record its outputs."""
        outputs = func(*args, **(kwargs or {}))
        formula = _FORMULAS.get(func._overloadpacket)  # noqa: SLF001 - torch's own modes use it too
        if formula is not None and not self._repeats_forward:
            self.flops += formula(*args, **(kwargs or {}), out_val=outputs)
        cast = func is _CAST and _key(args[0]) in self._weights
        for output in tree_leaves(outputs):
            if isinstance(output, Tensor):
                self._write(output, cast=cast)
        if func is _RECURRENT:
            hidden, workspace = outputs[0], outputs[3]
            self._write(workspace, size=int(_WORKSPACE * hidden.numel() * hidden.element_size()))
        return outputs

    def begin_backward(self) -> None:
        """Mark the end of the forward pass."""
        self._backward_from = len(self._entries)

    @property
    def _repeats_forward(self) -> bool:
        """Whether activations are recomputed: nothing else in a backward pass runs with gradients enabled."""
        return self._backward_from is not None and torch.is_grad_enabled()

    def numbers(self, tensors: Iterable[Tensor]) -> set[int]:
        """Return the numbers of the entries of live tensors."""
        return {self._live[_key(tensor)][0] for tensor in tensors if _key(tensor) in self._live}

    def peak(self, without: set[int]) -> int:
        """Return the peak of live bytes, without casts of weights and the entries numbered in `without`."""
        return max(self._course(self._casts | without), default=0)

    def saved(self) -> int:
        """Return the live bytes at the end of the forward pass, without casts of weights."""
        return ([0, *self._course(self._casts, self._backward_from)])[-1]

    def peak_of_casts(self) -> int:
        """Return the peak of live bytes of weights cast to another precision."""
        others = {entry.number for entry in self._entries} - self._casts
        return max(self._course(others), default=0)

    def _course(self, without: set[int], until: int | None = None) -> list[int]:
        total, course = 0, []
        for entry in self._entries[:until]:
            if entry.number not in without:
                total += entry.bytes
                course.append(total)
        return course

    def _write(self, tensor: Tensor, *, cast: bool = False, size: int | None = None) -> None:
        key = _key(tensor)
        if key in self._known or (key in self._live and size is None):
            return
        storage = tensor.untyped_storage()
        number, size = len(self._entries), storage.nbytes() if size is None else size
        self._entries.append(Entry(number, size))
        if cast:
            self._casts.add(number)

        def forget(_: weakref.ref[torch.UntypedStorage]) -> None:
            self._live.pop(key, None)
            self._entries.append(Entry(number, -size))

        self._live[key] = number, weakref.ref(storage, forget)


def _key(tensor: Tensor) -> int:
    address: int = tensor.untyped_storage()._cdata  # noqa: SLF001 - fake tensors have no data pointer
    return address


def _recurrent_flops(inputs: Tensor, *weights: Any, **_: Any) -> int:
    """Return the operations of one recurrent layer: two per position and element of its matrices."""
    length, batch = inputs.shape[:2]
    operations: int = 2 * length * batch * sum(matrix.numel() for matrix in weights[:2])
    return operations


def _convolution_flops(*args: Any, out_val: tuple[Tensor | None, ...], **kwargs: Any) -> int:
    """Return the operations of a convolution's backward pass; torch ignores groups for the gradient of the weight."""
    *others, groups, (of_input, of_weight, _) = args
    count = flop_registry[_CONVOLUTION]
    inputs = count(*others, groups, [True, False, False], out_val=out_val, **kwargs) if of_input else 0
    weight = count(*others, groups, [False, True, False], out_val=out_val, **kwargs) if of_weight else 0
    operations: int = inputs + weight // groups
    return operations


_FORMULAS: Final = {
    **flop_registry,
    _CONVOLUTION: _convolution_flops,
    torch.ops.aten.mkldnn_rnn_layer: _recurrent_flops,
    torch.ops.aten.mkldnn_rnn_layer_backward: lambda *args, **kwargs: 2 * _recurrent_flops(*args, **kwargs),
}
