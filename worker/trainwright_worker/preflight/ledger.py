"""Counts the bytes that live, and the arithmetic that is done, while operations run on tensors without data."""

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
"""What oneDNN keeps of an LSTM layer for its backward pass, in multiples of the layer's output: seen at several sizes. Torch
knows it only once the layer has run."""


@dataclass(frozen=True)
class Entry:
    """A storage that came (positive bytes) or went (negative)."""

    number: int
    bytes: int


class Ledger(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Writes down every storage that operations allocate, and when nothing holds it any longer.

    Works on tensors of `FakeTensorMode`, so a model of any size is followed through its passes as its memory would be.
    Kernels' own scratch space, which lives within one operation, is not seen.

    Attributes:
        flops: Floating-point operations of matrix products, convolutions, attention and recurrent layers so far, those that
            gradient checkpointing repeats in the backward pass not counted.
    """

    def __init__(self, weights: Iterable[Tensor], others: Iterable[Tensor] = ()) -> None:
        """Begin with nothing written down.

        Args:
            weights: The model's parameters, counted elsewhere. Copies of them in another precision are told apart.
            others: Further tensors that are counted elsewhere.
        """
        super().__init__()  # type: ignore[no-untyped-call]
        self._weights = {_key(weight) for weight in weights}
        # Holding them keeps their storages' addresses from being used again.
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
        """Run the operation and write down what it made."""
        outputs = func(*args, **(kwargs or {}))
        formula = _FORMULAS.get(func._overloadpacket)  # noqa: SLF001 - torch's own modes ask so too
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
        """Note that the forward pass is over."""
        self._backward_from = len(self._entries)

    @property
    def _repeats_forward(self) -> bool:
        """Whether activations are computed anew: in a backward pass nothing else runs with gradients enabled."""
        return self._backward_from is not None and torch.is_grad_enabled()

    def numbers(self, tensors: Iterable[Tensor]) -> set[int]:
        """Return the numbers under which the storages of live tensors were written down."""
        return {self._live[_key(tensor)][0] for tensor in tensors if _key(tensor) in self._live}

    def peak(self, without: set[int]) -> int:
        """Return the most bytes that lived at once, casts of weights and the storages numbered in `without` aside."""
        return max(self._course(self._casts | without), default=0)

    def saved(self) -> int:
        """Return the bytes that lived when the forward pass was over, casts of weights aside."""
        return ([0, *self._course(self._casts, self._backward_from)])[-1]

    def peak_of_casts(self) -> int:
        """Return the most bytes of weights in another precision that lived at once."""
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
    address: int = tensor.untyped_storage()._cdata  # noqa: SLF001 - tensors without data have no other address
    return address


def _recurrent_flops(inputs: Tensor, *weights: Any, **_: Any) -> int:
    """Return the operations of one recurrent layer: two per position and number in its matrices."""
    length, batch = inputs.shape[:2]
    operations: int = 2 * length * batch * sum(matrix.numel() for matrix in weights[:2])
    return operations


def _convolution_flops(*args: Any, out_val: tuple[Tensor | None, ...], **kwargs: Any) -> int:
    """Return the operations of a convolution's backward pass: torch forgets its groups where it counts the weight's."""
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
