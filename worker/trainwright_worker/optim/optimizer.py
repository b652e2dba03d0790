"""Creates the optimizer of a job."""

from collections.abc import Callable
from typing import Any, Final

import torch
from torch import nn
from torch.distributed.tensor import DTensor
from torch.nn.parameter import Parameter
from torch.optim import SGD, Adafactor, Adam, AdamW, Optimizer

from trainwright.api.spec import OptimizerSpec
from trainwright.api.spec.optimization import DecayScope, OptimizerName
from trainwright_worker.optim.layerwise import Lamb, Lars
from trainwright_worker.optim.muon import MuonWithAdamW, hidden_matrices

DEFAULT_BETAS: Final = (0.9, 0.999)
DEFAULT_EPSILON: Final = 1e-8
LAMB_EPSILON: Final = 1e-6
MUON_MOMENTUM: Final = 0.95

Groups = list[dict[str, Any]]


def make_optimizer(spec: OptimizerSpec, model: nn.Module) -> Optimizer:
    """Return the optimizer of all trainable weights.

    It uses fused kernels where torch has them, which update all weights in one call on CPUs and GPUs.
    """
    groups = _group(spec, [weight for weight in model.parameters() if weight.requires_grad])
    return _MAKERS[spec.name](spec, groups, model)


def set_learning_rate(optimizer: Optimizer, rate: float) -> None:
    """Set the learning rate of the next step."""
    for group in optimizer.param_groups:
        group["lr"] = rate


def can_skip_on_device(optimizer: Optimizer) -> bool:
    """Whether the optimizer can skip a step on the device, by checking `found_inf` itself."""
    return bool(getattr(optimizer, "_step_supports_amp_scaling", False))


def _group(spec: OptimizerSpec, weights: list[Parameter]) -> Groups:
    """Return parameter groups for weights with and without weight decay."""
    scope = spec.decay_scope or (DecayScope.MATRICES if spec.traits.spares_vectors else DecayScope.ALL)
    if scope == DecayScope.ALL:
        return [{"params": weights, "weight_decay": spec.weight_decay}]
    groups = [
        {"params": [weight for weight in weights if weight.dim() > 1], "weight_decay": spec.weight_decay},
        {"params": [weight for weight in weights if weight.dim() <= 1], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def _make_sgd(spec: OptimizerSpec, groups: Groups, _model: nn.Module) -> Optimizer:
    # torch's fused SGD cannot take a step with sharded weights.
    fused = not any(isinstance(weight, DTensor) for group in groups for weight in group["params"])
    optimizer = SGD(
        groups, lr=spec.learning_rate, momentum=spec.momentum or 0, nesterov=bool(spec.nesterov), fused=fused
    )
    if spec.momentum:
        # torch allocates the buffers in the first step and leaves them uninitialized if that step is skipped.
        for group in groups:
            for weight in group["params"]:
                optimizer.state[weight]["momentum_buffer"] = torch.zeros_like(weight)
    return optimizer


def _make_adam(spec: OptimizerSpec, groups: Groups, _model: nn.Module) -> Optimizer:
    kind = Adam if spec.name == OptimizerName.ADAM else AdamW
    return kind(groups, lr=spec.learning_rate, betas=_betas(spec), eps=spec.epsilon or DEFAULT_EPSILON, fused=True)


def _make_adafactor(spec: OptimizerSpec, groups: Groups, _model: nn.Module) -> Optimizer:
    return Adafactor(groups, lr=spec.learning_rate)


def _make_lamb(spec: OptimizerSpec, groups: Groups, _model: nn.Module) -> Optimizer:
    _adapt_matrices(groups)
    return Lamb(groups, lr=spec.learning_rate, betas=_betas(spec), eps=spec.epsilon or LAMB_EPSILON)


def _make_lars(spec: OptimizerSpec, groups: Groups, _model: nn.Module) -> Optimizer:
    _adapt_matrices(groups)
    return Lars(groups, lr=spec.learning_rate, momentum=spec.momentum or 0, nesterov=bool(spec.nesterov))


def _make_muon(spec: OptimizerSpec, groups: Groups, model: nn.Module) -> Optimizer:
    hidden = hidden_matrices(model)
    return MuonWithAdamW(
        [weight for group in groups for weight in group["params"] if weight in hidden],
        [{**group, "params": [weight for weight in group["params"] if weight not in hidden]} for group in groups],
        lr=spec.learning_rate,
        momentum=MUON_MOMENTUM if spec.momentum is None else spec.momentum,
        betas=_betas(spec),
        eps=spec.epsilon or DEFAULT_EPSILON,
        weight_decay=spec.weight_decay,
    )


_MAKERS: Final[dict[OptimizerName, Callable[[OptimizerSpec, Groups, nn.Module], Optimizer]]] = {
    OptimizerName.SGD: _make_sgd,
    OptimizerName.ADAM: _make_adam,
    OptimizerName.ADAMW: _make_adam,
    OptimizerName.ADAFACTOR: _make_adafactor,
    OptimizerName.LAMB: _make_lamb,
    OptimizerName.LARS: _make_lars,
    OptimizerName.MUON: _make_muon,
}


def _adapt_matrices(groups: Groups) -> None:
    """Scale steps by the norm of the weight only in groups with matrices; biases and norms start at or near 0."""
    for group in groups:
        group["adapts"] = any(weight.dim() > 1 for weight in group["params"])


def _betas(spec: OptimizerSpec) -> tuple[float, float]:
    return DEFAULT_BETAS if spec.betas is None else (spec.betas[0], spec.betas[1])
