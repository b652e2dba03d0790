"""How several processes train one model: each with a whole copy (DDP), or each with a part of every weight (FSDP).

Under FSDP weights, gradients and optimizer state are DTensors: every rank holds its rows. A block of the model, such as a
transformer's layer, is put together just before it computes and taken apart after it. Weights are drawn on the host by
every rank, so that they are those that DDP would start from, and split: block by block where layers draw their own, so that
the host never holds more than one block per process. Models of other libraries, pretrained ones and those with LoRA's
matrices come whole, and take host memory for the whole model per process.
"""

from collections.abc import Iterator
from typing import Final, cast

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from trainwright.api.spec import TrainingJobSpec
from trainwright.api.spec.checkpoint import Parallelism
from trainwright.api.spec.training import Precision
from trainwright_worker.distributed.group import Group

COMMUTING_RANKS = 2
CHANNELS_LAST: Final = frozenset({"cuda"})
"""Devices that convolve faster where the channels of a pixel lie together. Sharded weights must lie row by row."""
IMAGES: Final = 4
"""Dimensions of a batch of images, and of the weights of their convolutions."""


def is_sharded(spec: TrainingJobSpec, processes: int) -> bool:
    """Return whether each of so many ranks holds a part of the model only."""
    return spec.parallelism == Parallelism.FSDP and processes > 1


def parallelize(model: nn.Module, spec: TrainingJobSpec, group: Group, *, complete: bool = True) -> nn.Module:
    """Have all ranks train one model. Call it before the optimizer is made.

    Args:
        model: The model with the same weights on every rank; under FSDP, changed so that each keeps its part. There it may
            come without data, if its layers draw their own (`build.draws_layer_by_layer`).
        spec: The job.
        group: All ranks, which must all call this.
        complete: Whether the outputs are known to depend on every weight that is trained.

    Returns:
        What to call in training: its backward pass brings together the gradients of all ranks.
    """
    if group.size == 1:
        _place(model, group)
        return model
    if is_sharded(spec, group.size):
        _shard(model, spec, group)
        return model
    # Looking for unused parameters keeps DDP from regrouping gradients after the first step of a launch, which
    # would make the order of their summation depend on when the job was interrupted. Two ranks sum in any order.
    fixed_order = spec.training.deterministic and group.size > COMMUTING_RANKS
    _place(model, group)
    looks = fixed_order or not complete  # Otherwise DDP would wait for gradients that never come.
    return DistributedDataParallel(model, gradient_as_bucket_view=True, find_unused_parameters=looks)


def _place(model: nn.Module, group: Group) -> None:
    """Move a model to its device, and its convolutions' weights into the order that the device computes in."""
    model.to(group.device)
    if group.device.type in CHANNELS_LAST and any(isinstance(part, nn.Conv2d) for part in model.modules()):
        model.to(memory_format=torch.channels_last)


def draw(layer: nn.Module) -> None:
    """Draw, on the host, what a layer that was built without data has of its own; one with data stays as it is."""
    own = [*layer.parameters(recurse=False), *layer.buffers(recurse=False)]
    if any(tensor.is_meta for tensor in own):
        layer.to_empty(device="cpu", recurse=False)
        cast("nn.Linear", layer).reset_parameters()


def order_of(model: nn.Module) -> torch.memory_format:
    """Return the order in which a model's weights lie, which images should share: otherwise every layer would turn them."""
    turned = (
        weight.dim() == IMAGES
        and not weight.is_contiguous()
        and weight.is_contiguous(memory_format=torch.channels_last)
        for weight in model.parameters()
    )
    return torch.channels_last if any(turned) else torch.contiguous_format


def whole(value: Tensor) -> Tensor:
    """Return a tensor put together from the parts of all ranks, who must all call this; any other tensor as it is."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def full_state_dict(model: nn.Module, *, leads: bool) -> dict[str, Tensor]:
    """Return all weights and buffers, whole, on the CPU, of rank 0; nothing elsewhere. All ranks must call this.

    Args:
        model: The model without any wrapper.
        leads: Whether this is rank 0.
    """
    state = {}
    for name, value in model.state_dict().items():
        put_together = whole(value.detach())
        if leads:
            state[name] = put_together.cpu().contiguous()
    return state


def _shard(model: nn.Module, spec: TrainingJobSpec, group: Group) -> None:
    mesh = init_device_mesh(group.device.type, (group.size,))
    # Weights, gradients and the optimizer stay fp32; only what a block computes with is bf16.
    half = torch.bfloat16 if spec.training.precision == Precision.BF16 else None
    policy = MixedPrecisionPolicy(param_dtype=half, reduce_dtype=torch.float32 if half else None)
    # Running statistics are no weights and stay fp32; what they are used with must be of the same precision.
    policies: dict[nn.Module, MixedPrecisionPolicy] = dict.fromkeys(shards_of(model), policy)
    policies |= dict.fromkeys(() if half is None else _norms(model), MixedPrecisionPolicy())
    for part in _draw_inside_out(model):
        own = policies.pop(part, None)
        if own is not None:
            fully_shard(part, mesh=mesh, mp_policy=own)
    fully_shard(model, mesh=mesh, mp_policy=policy)
    _share_statistics(model, group)


def _draw_inside_out(module: nn.Module) -> Iterator[nn.Module]:
    """Yield the parts of a model, each once all within it has weights; weights are drawn in the order of `modules()`."""
    draw(module)
    for child in module.children():
        yield from _draw_inside_out(child)
        yield child


def shards_of(model: nn.Module) -> Iterator[nn.Module]:
    """Yield what repeats in a model: the members of its outermost lists and sequences that have weights."""
    for child in model.children():
        if not isinstance(model, nn.ModuleList | nn.Sequential) or isinstance(child, nn.ModuleList | nn.ModuleDict):
            yield from shards_of(child)
        elif any(True for _ in child.parameters()):
            yield child


def share_buffers(model: nn.Module, group: Group) -> None:
    """Give every rank rank 0's buffers: since they last trained together, each has added its own samples to them.

    All ranks must call this before the model is measured, used or saved.
    """
    group.broadcast_tensors(model.buffers())


def _share_statistics(model: nn.Module, group: Group) -> None:
    """Let all ranks go on from rank 0's running statistics at every step, as under DDP."""
    statistics = [buffer for part in _norms(model) for buffer in part.buffers(recurse=False)]

    def share(*_: object) -> None:
        if model.training:
            group.broadcast_tensors(statistics)

    if statistics:
        model.register_forward_pre_hook(share)


def _norms(model: nn.Module) -> Iterator[nn.Module]:
    """Yield the layers that gather statistics of what they have seen."""
    for part in model.modules():
        if isinstance(part, nn.modules.batchnorm._NormBase):  # noqa: SLF001 - what torch itself asks
            yield part
