"""Copies the state to host memory, for writing in the background. Training only waits for the copy.

Host memory is allocated once, before the first save if there is time, and reused. For a GPU it is pinned, and the copy
is asynchronous: the device completes it before it starts the next step.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributed.checkpoint.default_planner import DefaultSavePlanner
from torch.distributed.checkpoint.planner import SavePlan
from torch.distributed.tensor import DTensor

State = dict[str, Tensor]
"""Tensors by name, `<kind>.<name>`. A DTensor stands for this rank's shard of a tensor."""


@dataclass(frozen=True)
class Copy:
    """A consistent copy of this rank's part of the state, in host memory.

    Attributes:
        plan: The boxes of tensors that this rank holds.
        tensors: Their contents, contiguous.
        copied: On a GPU, the event that marks the end of the copy.
    """

    plan: SavePlan
    tensors: State
    copied: torch.cuda.Event | None = None

    def wait(self) -> None:
        """Wait until the copy is complete."""
        if self.copied is not None:
            self.copied.synchronize()


class Staging:
    """Host memory for one copy of this rank's part of the state."""

    def __init__(self) -> None:
        """Allocate nothing yet."""
        self._plan = SavePlan([])
        self._tensors: State = {}

    def reserve(self, state: State) -> None:
        """Allocate memory for a state of this shape, and touch it so that the system provides the pages."""
        names, parts = list(state), [_part(value) for value in state.values()]
        if not self._fits(names, parts):
            self._allocate(state, parts)
            for mine in self._tensors.values():
                mine.zero_()  # The system provides the pages only when they are written.

    def copy(self, state: State) -> Copy:
        """Start to copy the state; this overwrites the result of an earlier call.

        Args:
            state: Live tensors, on one device or on the CPU.
        """
        names = list(state)
        parts = [_part(value) for value in state.values()]
        if not self._fits(names, parts):
            self._allocate(state, parts)
        torch._foreach_copy_([self._tensors[name] for name in names], parts, non_blocking=True)
        copied = None
        if any(part.is_cuda for part in parts):
            copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
            copied.record()
        return Copy(self._plan, self._tensors, copied)

    def _fits(self, names: list[str], parts: list[Tensor]) -> bool:
        return names == list(self._tensors) and all(
            mine.shape == part.shape and mine.dtype == part.dtype
            for mine, part in zip(self._tensors.values(), parts, strict=True)
        )

    def _allocate(self, state: State, parts: list[Tensor]) -> None:
        planner = DefaultSavePlanner(flatten_state_dict=False)
        planner.set_up_planner(dict(state))
        self._plan = planner.create_local_plan()
        self._tensors = {
            name: torch.empty(part.shape, dtype=part.dtype, pin_memory=part.is_cuda)
            for name, part in zip(state, parts, strict=True)
        }


def _part(value: Tensor) -> Tensor:
    return value.to_local() if isinstance(value, DTensor) else value
