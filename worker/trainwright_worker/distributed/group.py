"""The process group of a rank, its messages to other ranks, and the setup of its device, threads and seeds.

A job of one process forms no process group. Control messages use gloo even if gradients use NCCL, so that they never
block a GPU.
"""

import ctypes
import itertools
import math
import os
import random
import threading
from collections.abc import Iterable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Final

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import Store  # type: ignore[attr-defined]

from trainwright.api.spec import TrainingSpec
from trainwright.api.worker import WorkerConfig
from trainwright_worker.distributed.placement import RankPlacement
from trainwright_worker.distributed.store import connect_store, round_store
from trainwright_worker.errors import UserError

COLLECTIVE_TIMEOUT: Final = timedelta(minutes=30)
"""Timeout of collectives, which all ranks join at about the same time. Ranks wait for work of rank 0 in other ways."""
_POLL_INTERVAL: Final = timedelta(seconds=1)
"""Maximum time of one wait for rank 0, because other threads use the same connection to the store."""
_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
_CPU_QUOTA: Final = Path("/sys/fs/cgroup/cpu.max")


class Group:
    """The ranks of a job, seen from one of them.

    Attributes:
        rank: Rank of this process.
        size: Number of ranks.
        device: Device of this rank.
        store: The round's part of the rendezvous store; None in a job of one process.
    """

    def __init__(self, config: WorkerConfig, placement: RankPlacement, host: str, device: torch.device) -> None:
        """Form the group; waits for all ranks.

        Args:
            config: The worker's config.
            placement: The placement of this rank.
            host: Host of the rendezvous store.
            device: Device of this rank.
        """
        self.rank = placement.rank
        self.size = placement.size
        self.device = device
        self.store: Store | None = None
        self._waits = itertools.count()
        if self.size > 1:
            self.store = round_store(connect_store(host, config.rendezvous_port), config.uid, placement.round)
            backend = "gloo" if device.type == "cpu" else f"cpu:gloo,{device.type}:nccl"
            dist.init_process_group(
                backend, store=self.store, rank=self.rank, world_size=self.size, timeout=COLLECTIVE_TIMEOUT
            )
            if device.type != "cpu":
                # NCCL connects in the first collective. Doing this here makes it part of the startup, which has its own
                # deadline.
                dist.all_reduce(torch.zeros(1, device=device))
                torch.cuda.synchronize(device)

    def sum(self, values: list[float]) -> list[float]:
        """Return the sum of each value over all ranks, in float64."""
        if self.size == 1:
            return values
        tensor = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(tensor)
        summed: list[float] = tensor.tolist()
        return summed

    def gather(self, tensor: Tensor) -> list[Tensor]:
        """Return, on rank 0, every rank's tensor of the same shape (CPU); an empty list elsewhere."""
        if self.size == 1:
            return [tensor]
        parts = [torch.empty_like(tensor) for _ in range(self.size)] if self.rank == 0 else None
        dist.gather(tensor, parts)
        return parts or []

    def concatenate(self, rows: Tensor) -> Tensor:
        """Return the concatenated rows of all ranks on every rank ([sum of n, ...], CPU); n may differ."""
        if self.size == 1:
            return rows
        counts = [
            int(count) for count in self.sum([float(len(rows) * (rank == self.rank)) for rank in range(self.size)])
        ]
        padded = rows.new_zeros(max(counts), *rows.shape[1:])
        padded[: len(rows)] = rows
        parts = [torch.empty_like(padded) for _ in counts]
        dist.all_gather(parts, padded)
        return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])

    def wait_for_leader(self) -> None:
        """Wait until rank 0 reaches this call, which may take hours; rank 0 itself does not wait.

        If rank 0 dies, the agent stops the waiting ranks. All ranks must call this.
        """
        if self.store is None:
            return
        key = f"leader/{next(self._waits)}"
        if self.rank == 0:
            self.store.set(key, "here")
        while not self.store.check([key]):
            with suppress(dist.DistStoreError):  # The wait timed out.
                self.store.wait([key], _POLL_INTERVAL)

    def broadcast(self, content: bytes | None) -> bytes | None:
        """Return rank 0's bytes on every rank, however long rank 0 takes; None if rank 0 has none."""
        if self.size == 1:
            return content
        self.wait_for_leader()
        length = torch.tensor([-1 if content is None else len(content)], dtype=torch.int64)
        dist.broadcast(length, src=0)
        if length < 0:
            return None
        tensor = torch.empty(int(length), dtype=torch.uint8)
        if content is not None:
            tensor = torch.frombuffer(bytearray(content), dtype=torch.uint8)
        dist.broadcast(tensor, src=0)
        return tensor.numpy().tobytes()

    def broadcast_tensors(self, tensors: Iterable[Tensor]) -> None:
        """Copy rank 0's values of tensors to every rank. All ranks must pass the same tensors in the same order."""
        if self.size == 1:
            return
        for tensor in tensors:
            sent = tensor.contiguous()
            dist.broadcast(sent, src=0)
            if sent is not tensor:
                tensor.copy_(sent)

    def barrier(self) -> None:
        """Wait until every rank reaches this call."""
        self.sum([0.0])

    def close(self) -> None:
        """Leave the group. All ranks must call this."""
        if self.size > 1:
            self.barrier()
            dist.destroy_process_group()


def choose_device(placement: RankPlacement) -> torch.device:
    """Return the GPU of this local rank if the worker has GPUs, else the CPU.

    Raises:
        UserError: There are more processes than GPUs.
    """
    if not torch.cuda.is_available():
        return torch.device("cpu")
    found = torch.cuda.device_count()
    if placement.local_size > found:
        raise UserError(
            f"spec.workers.processesPerWorker: {placement.local_size}, but the worker has {found} GPU(s), and each process needs "
            "its own GPU",
            f"set it to {found}, or ask for {placement.local_size} GPUs in spec.workers.resources.limits",
        )
    device = torch.device("cuda", placement.local_rank)
    torch.cuda.set_device(device)
    return device


def set_threads(placement: RankPlacement) -> None:
    """Divide the machine's cores among its processes; OMP_NUM_THREADS overrides this.

    The setting applies to the calling thread. Threads started later, for reading ahead or writing, compute with one
    thread each: if OpenMP has more threads than cores, idle ones included, its threads stop spinning while they wait,
    and a step of a small GPT on two cores takes a third longer.
    """
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", max(1, count_cores() // placement.neighbours))))
    torch.get_num_threads()  # Fixes the value for this thread; until then, the last value set by any thread applies.
    later = threading.Thread(target=torch.set_num_threads, args=(1,))
    later.start()
    later.join()


def keep_freed_memory() -> None:
    """Have the allocator keep memory that a step frees, because the next step needs it again.

    Otherwise glibc may return the memory of activations to the kernel after every step, and page faults in the next
    step take up to a third of the time of a small CNN. Free memory beyond 1 GiB is still returned.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_TRIM_THRESHOLD, 1 << 30)
        mallopt(
            _M_MMAP_THRESHOLD, 32 << 20
        )  # The maximum of glibc. Setting a threshold also stops glibc from adjusting both.


def count_cores() -> int:
    """Return the number of cores this process may use: its affinity, limited by the container's CPU limit."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = _CPU_QUOTA.read_text().split()
        return min(cores, max(1, math.ceil(int(quota) / int(period))))
    except (OSError, ValueError):
        return cores  # No limit ("max"), or no cgroup.


def set_determinism(spec: TrainingSpec, device: torch.device) -> None:
    """Select deterministic kernels, or the fastest ones, as the spec says."""
    if spec.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(mode=True)
    torch.backends.cudnn.benchmark = device.type == "cuda" and not spec.deterministic


def seed_everything(seed: int, rank: int) -> None:
    """Seed every random generator. Ranks get different seeds, so that their dropout differs."""
    torch.manual_seed(seed + rank * 1_000_003)
    random.seed(seed + rank * 1_000_003)
