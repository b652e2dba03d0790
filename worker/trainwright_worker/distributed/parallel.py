"""Data parallelism: every process holds a whole copy of the model (DDP), or a shard of every weight (FSDP).

Under FSDP, weights, gradients and optimizer state are DTensors: every rank holds its rows. A block of the model, such
as a transformer layer, is gathered just before it runs and freed after it. Every rank initializes the weights on the
host, so that they equal those under DDP, and then shards them. If layers initialize their own weights, this happens
block by block, so the host never holds more than one block per process. Models of other libraries, pretrained models
and models with LoRA are built whole, which takes host memory for the whole model per process.
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
"""Devices on which convolutions are faster in channels-last memory format. Sharded weights must stay contiguous."""
IMAGES: Final = 4
"""Dimensions of a batch of images, and of the weights of their convolutions."""


def is_sharded(spec: TrainingJobSpec, processes: int) -> bool:
    """Return whether the model is sharded over the given number of ranks."""
    return spec.parallelism == Parallelism.FSDP and processes > 1


def parallelize(model: nn.Module, spec: TrainingJobSpec, group: Group, *, complete: bool = True) -> nn.Module:
    """Wrap or shard the model so that all ranks train it together. Call this before creating the optimizer.

    Args:
        model: The model, with the same weights on every rank. Under FSDP, it is sharded in place, and may be on the
            meta device if its layers initialize their own weights (`build.draws_layer_by_layer`).
        spec: The job.
        group: All ranks, which must all call this.
        complete: Whether the outputs are known to depend on every trainable weight.

    Returns:
        The module to call in training, whose backward pass averages the gradients of all ranks.
    """
    if group.size == 1:
        _place(model, group)
        return model
    if is_sharded(spec, group.size):
        _shard(model, spec, group)
        return model
    # Searching for unused parameters keeps DDP from regrouping gradients after the first step of a launch, which would
    # make the order of their summation depend on when the job was interrupted. For two ranks, the order does not
    # matter.
    fixed_order = spec.training.deterministic and group.size > COMMUTING_RANKS
    _place(model, group)
    # Without the search, DDP would also wait forever for the gradients of unused parameters.
    find_unused = fixed_order or not complete
    return DistributedDataParallel(model, gradient_as_bucket_view=True, find_unused_parameters=find_unused)


def _place(model: nn.Module, group: Group) -> None:
    """Move a model to its device, and convert convolutions to the fastest memory format of the device."""
    model.to(group.device)
    if group.device.type in CHANNELS_LAST and any(isinstance(part, nn.Conv2d) for part in model.modules()):
        model.to(memory_format=torch.channels_last)


def draw(layer: nn.Module) -> None:
    """Initialize the layer's own weights on the host, if they are on the meta device."""
    own = [*layer.parameters(recurse=False), *layer.buffers(recurse=False)]
    if any(tensor.is_meta for tensor in own):
        layer.to_empty(device="cpu", recurse=False)
        cast("nn.Linear", layer).reset_parameters()


def order_of(model: nn.Module) -> torch.memory_format:
    """Return the memory format of a model's weights; images must have the same, or every layer would convert them."""
    channels_last = (
        weight.dim() == IMAGES
        and not weight.is_contiguous()
        and weight.is_contiguous(memory_format=torch.channels_last)
        for weight in model.parameters()
    )
    return torch.channels_last if any(channels_last) else torch.contiguous_format


def whole(value: Tensor) -> Tensor:
    """Return the full tensor of a DTensor, which all ranks must call, and any other tensor unchanged."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def full_state_dict(model: nn.Module, *, leads: bool) -> dict[str, Tensor]:
    """Return all weights and buffers, unsharded, on the CPU of rank 0; nothing elsewhere. All ranks must call this.

    Args:
        model: The unwrapped model.
        leads: Whether this is rank 0.
    """
    state = {}
    for name, value in model.state_dict().items():
        full = whole(value.detach())
        if leads:
            state[name] = full.cpu().contiguous()
    return state


def _shard(model: nn.Module, spec: TrainingJobSpec, group: Group) -> None:
    mesh = init_device_mesh(group.device.type, (group.size,))
    # Weights, gradients and optimizer state stay fp32; only the gathered weights of a block are bf16.
    half = torch.bfloat16 if spec.training.precision == Precision.BF16 else None
    policy = MixedPrecisionPolicy(param_dtype=half, reduce_dtype=torch.float32 if half else None)
    # Running statistics are buffers and stay fp32, so the weights of norm layers must stay fp32 too.
    policies: dict[nn.Module, MixedPrecisionPolicy] = dict.fromkeys(shards_of(model), policy)
    policies |= dict.fromkeys(() if half is None else _norms(model), MixedPrecisionPolicy())
    for part in _draw_inside_out(model):
        own = policies.pop(part, None)
        if own is not None:
            fully_shard(part, mesh=mesh, mp_policy=own)
    fully_shard(model, mesh=mesh, mp_policy=policy)
    _share_statistics(model, group)


def _draw_inside_out(module: nn.Module) -> Iterator[nn.Module]:
    """Initialize a model in the order of `modules()`, and yield each submodule once all of its weights exist."""
    draw(module)
    for child in module.children():
        yield from _draw_inside_out(child)
        yield child


def shards_of(model: nn.Module) -> Iterator[nn.Module]:
    """Yield the repeated blocks of a model: the members with weights of its outermost ModuleLists and Sequentials."""
    for child in model.children():
        if not isinstance(model, nn.ModuleList | nn.Sequential) or isinstance(child, nn.ModuleList | nn.ModuleDict):
            yield from shards_of(child)
        elif any(True for _ in child.parameters()):
            yield child


def share_buffers(model: nn.Module, group: Group) -> None:
    """Copy rank 0's buffers to every rank, because since the last step each rank has updated them with its own samples.

    All ranks must call this before the model is evaluated, used or saved.
    """
    group.broadcast_tensors(model.buffers())


def _share_statistics(model: nn.Module, group: Group) -> None:
    """Copy rank 0's running statistics to all ranks before every step, as DDP does."""
    statistics = [buffer for part in _norms(model) for buffer in part.buffers(recurse=False)]

    def share(*_: object) -> None:
        if model.training:
            group.broadcast_tensors(statistics)

    if statistics:
        model.register_forward_pre_hook(share)


def _norms(model: nn.Module) -> Iterator[nn.Module]:
    """Yield the layers that keep running statistics of their inputs."""
    for part in model.modules():
        if isinstance(part, nn.modules.batchnorm._NormBase):  # noqa: SLF001 - torch has no public base class
            yield part
