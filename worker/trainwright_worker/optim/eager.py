"""Optimizers that do not load torch's compiler.

torch marks the methods of its optimizers as none for `torch.compile` to look into, and to do so imports the compiler when the
first of them is called: half a second of CPU, with SymPy and Triton. Here no optimizer is compiled, so the methods
are called without those marks.
"""

import inspect
from typing import TypeVar, cast

import torch
from torch.optim import Optimizer

Kind = TypeVar("Kind", bound=Optimizer)


def eager(kind: type[Kind]) -> type[Kind]:
    """Return the same kind of optimizer, whose steps are the same to the bit, without what prepares it for compilation."""
    methods = {
        name: inspect.unwrap(getattr(kind, name))
        for name in ("add_param_group", "load_state_dict", "state_dict", "zero_grad")
    }
    # Among what is taken off is what switches gradients off during a step.
    methods["step"] = torch.no_grad()(inspect.unwrap(kind.step))
    return cast("type[Kind]", type(kind.__name__, (kind,), methods))
