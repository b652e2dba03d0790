"""Computes the memory that a process needs from measurements, and reads how much its device has."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch

from trainwright.api.devices import Gpu, find_gpu
from trainwright.api.figures import MemoryUse
from trainwright.api.spec import TrainingJobSpec
from trainwright.api.spec.training import Precision
from trainwright_worker.data.frames import Frames
from trainwright_worker.data.sampler import largest_pass
from trainwright_worker.data.sequences import Tokens, round_up
from trainwright_worker.data.table import Split
from trainwright_worker.distributed.parallel import is_sharded
from trainwright_worker.preflight.measure import PassCost, Weights

CUDA_CONTEXT: Final = 2**30
"""Bytes of GPU memory that the driver, cuBLAS and NCCL use before the first tensor is allocated."""
_PREFETCHED: Final = 2
"""Blocks of a sharded model that are gathered at the same time: the current one and the next one."""
_CGROUP: Final = Path("/sys/fs/cgroup")
_MEMORY: Final = Path("/proc/meminfo")


@dataclass(frozen=True)
class Setup:
    """The settings of a job that affect its memory.

    Attributes:
        processes: Number of training processes.
        batch: Samples per step, over all processes.
        micro_batch: Maximum number of samples per process and forward pass.
        accumulation: Forward passes per step and process.
        precision: Precision of the passes.
        checkpointing: Whether gradient checkpointing is enabled.
        sharded: Whether weights, gradients and optimizer state are spread over the processes.
        average: Whether a moving average of the weights is kept.
        cuda: Whether the job runs on GPUs, whose memory holds no copy for checkpoints.
        sharing: Processes per worker. On CPUs, they share the worker's memory.
    """

    processes: int
    batch: int
    micro_batch: int
    accumulation: int
    precision: Precision
    checkpointing: bool
    sharded: bool
    average: bool
    cuda: bool
    sharing: int


@dataclass(frozen=True)
class Device:
    """The device of a process.

    Attributes:
        name: Name of the device.
        memory: Bytes that a process may use; None if unknown.
        cuda: Whether it is a GPU.
        gpu: Its entry in the table of known GPUs, if it has one.
    """

    name: str
    memory: int | None
    cuda: bool
    gpu: Gpu | None = None

    def peak(self, precision: Precision) -> float | None:
        """Return its peak floating-point operations per second; None if unknown."""
        if self.gpu is None:
            return None
        return self.gpu.single if precision == Precision.FP32 else self.gpu.half


def setup_of(spec: TrainingJobSpec, processes: int | None = None, samples: int | None = None, *, cuda: bool) -> Setup:
    """Return the setup of a job.

    Args:
        spec: The job.
        processes: Number of training processes; by default, that of the spec.
        samples: Number of samples of the training split, if known. With fullBatch, it is the batch size.
        cuda: Whether the job runs on GPUs.
    """
    training = spec.training
    batch = samples if training.full_batch and samples is not None else training.global_batch_size
    processes = processes or spec.world_size
    micro_batch = largest_pass(spec, batch)
    return Setup(
        processes=processes,
        batch=batch,
        micro_batch=micro_batch,
        accumulation=math.ceil(batch / processes / micro_batch),
        precision=training.precision,
        checkpointing=training.gradient_checkpointing,
        sharded=is_sharded(spec, processes),
        average=training.ema is not None,
        cuda=cuda,
        sharing=spec.workers.processes_per_worker,
    )


def usual_length(split: Split, samples: int) -> int | None:
    """Return the average length of batches of texts or frames; None if inputs are not sequences.

    Args:
        split: The training split.
        samples: Samples per batch; a batch is padded to its longest sample.
    """
    match split:
        case Tokens(ids=ragged) | Frames(frames=ragged):
            rows, longest = split.rows.numpy(), split.max_length
        case _:
            return None
    if split.fixed:
        return longest
    lengths = np.minimum(ragged.ends[rows + 1] - ragged.ends[rows], longest)
    padded = [round_up(length, longest) for length in range(longest + 1)]
    # The probability of each length to be the longest of a batch.
    shares = np.cumsum(np.bincount(lengths, minlength=longest + 1)) / len(rows)
    chances = np.diff(shares**samples, prepend=0)
    return max(1, round(float(chances @ np.array(padded))))


def add_up(weights: Weights, optimizer: int, passes: PassCost, setup: Setup) -> MemoryUse:
    """Return the memory of one process at the peak of a step.

    Args:
        weights: Sizes of the model's weights.
        optimizer: Bytes of the optimizer's whole state.
        passes: Cost of one micro-batch.
        setup: The setup.
    """
    shards = setup.processes if setup.sharded else 1
    whole = weights.rest + _PREFETCHED * weights.block
    # Blocks are gathered in the precision of the passes. Their gradients are unsharded until they are reduced.
    gathered = math.ceil(whole / (1 if setup.precision == Precision.FP32 else 2)) + weights.gradient
    own = math.ceil(weights.all / shards) + weights.buffers
    optimizer = math.ceil(optimizer / shards)
    average = math.ceil(weights.trained / shards) if setup.average else 0
    # With sharding, every rank copies its own shard. Otherwise only rank 0 copies the state, and on a CPU its worker's
    # processes share that memory.
    saved = math.ceil((own + optimizer + average) / (1 if setup.sharded else setup.sharing))
    return MemoryUse(
        weights=own,
        gradients=math.ceil(weights.trained / shards),
        optimizer=optimizer,
        average=average,
        saved=0 if setup.cuda else saved,
        teacher=weights.teacher,  # Never sharded.
        casts=0 if setup.sharded else passes.casts,
        gathered=gathered if setup.sharded and shards > 1 else 0,
        batch=passes.sample * math.ceil(setup.batch / setup.processes),
        activations=max(0, passes.peak - passes.logits),
        logits=passes.logits,
    )


def this_device(sharing: int) -> Device:
    """Return the device of this process, with its available memory.

    Args:
        sharing: Processes that share the memory of this machine or container.
    """
    if torch.cuda.is_available():
        index = torch.cuda.current_device()
        name = torch.cuda.get_device_name(index)
        # Memory reserved by torch's allocator is available to this process too.
        free = torch.cuda.mem_get_info(index)[0] + torch.cuda.memory_reserved(index)
        return Device(name, free, cuda=True, gpu=find_gpu(name))
    memory = _container_memory() or _machine_memory()
    return Device("CPU", None if memory is None else memory // sharing, cuda=False)


def _container_memory() -> int | None:
    """Return the available memory under the container's limit, counting cached files as free; None without a limit."""
    try:
        limit = int((_CGROUP / "memory.max").read_text())
        used = int((_CGROUP / "memory.current").read_text())
        lines = (_CGROUP / "memory.stat").read_text().splitlines()
        cached = sum(int(line.split()[1]) for line in lines if line.startswith("inactive_file "))
    except (OSError, ValueError):
        return None
    left = limit - used + cached
    available = _machine_memory()
    return left if available is None else min(left, available)


def _machine_memory() -> int | None:
    """Return the available memory of this machine; None if unknown."""
    try:
        lines = _MEMORY.read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, ValueError, StopIteration):
        return None
