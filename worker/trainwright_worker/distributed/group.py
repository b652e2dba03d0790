"""The process group: devices, threads and seeds of a rank, and the few messages that ranks exchange.

A job of one process forms no group and pays for none. Control messages travel over gloo even where gradients travel over
NCCL, so that agreeing never makes a GPU wait.
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
"""Longest silence of a peer inside a collective, in which all take part at once. Nobody waits in one for work of rank 0."""
_ASKS: Final = timedelta(seconds=1)
"""How long a rank waits for rank 0 before it asks anew; other threads have a use for the connection, too."""
_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
_CPU_QUOTA: Final = Path("/sys/fs/cgroup/cpu.max")


class Group:
    """The ranks of a job, seen from one of them.

    Attributes:
        rank: Number of this process.
        size: Number of processes.
        device: Where this rank computes.
        store: The round's part of the rendezvous store; None in a job of one process.
    """

    def __init__(self, config: WorkerConfig, placement: RankPlacement, host: str, device: torch.device) -> None:
        """Form the group; waits until all ranks have.

        Args:
            config: The worker's config.
            placement: Where this rank stands.
            host: Host under which the rendezvous store is reached from here.
            device: Where this rank computes.
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
                # NCCL connects with the first collective. Here it is known how long that may take.
                dist.all_reduce(torch.zeros(1, device=device))
                torch.cuda.synchronize(device)

    def sum(self, values: list[float]) -> list[float]:
        """Return the sum over all ranks of each value, in float64."""
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
        """Return the rows of all ranks, one after the other, on every rank ([sum of n, ...], CPU); n may differ."""
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
        """Wait until rank 0 has come here too, which may take hours; rank 0 itself waits for nobody.

        If rank 0 dies, the agent ends those that wait. All ranks must call this.
        """
        if self.store is None:
            return
        key = f"leader/{next(self._waits)}"
        if self.rank == 0:
            self.store.set(key, "here")
        while not self.store.check([key]):
            with suppress(dist.DistStoreError):  # It has not come yet.
                self.store.wait([key], _ASKS)

    def broadcast(self, content: bytes | None) -> bytes | None:
        """Return rank 0's bytes on every rank, however long it works on them; None if rank 0 has none."""
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
        """Give every rank what rank 0 has in these tensors, of which all have as many in the same order."""
        if self.size == 1:
            return
        for tensor in tensors:
            sent = tensor.contiguous()
            dist.broadcast(sent, src=0)
            if sent is not tensor:
                tensor.copy_(sent)

    def barrier(self) -> None:
        """Wait until every rank has come here."""
        self.sum([0.0])

    def close(self) -> None:
        """Leave the group, all together."""
        if self.size > 1:
            self.barrier()
            dist.destroy_process_group()


def choose_device(placement: RankPlacement) -> torch.device:
    """Return the GPU of this local rank if the worker has any, else the CPU.

    Raises:
        UserError: There are more processes than GPUs.
    """
    if not torch.cuda.is_available():
        return torch.device("cpu")
    found = torch.cuda.device_count()
    if placement.local_size > found:
        raise UserError(
            f"spec.workers.processesPerWorker: {placement.local_size}, but the worker has {found} GPU(s), and each process needs "
            "one of its own",
            f"set it to {found}, or ask for {placement.local_size} GPUs in spec.workers.resources.limits",
        )
    device = torch.device("cuda", placement.local_rank)
    torch.cuda.set_device(device)
    return device


def set_threads(placement: RankPlacement) -> None:
    """Share the machine's cores among the processes on it; OMP_NUM_THREADS, if it is set, decides instead.

    They are the calling thread's. Threads that are started later, to read ahead or to write, compute with one each: once
    OpenMP has more threads than there are cores, idle ones included, none waits actively any more, and a step of a small GPT
    on two cores takes a third longer.
    """
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", max(1, count_cores() // placement.neighbours))))
    torch.get_num_threads()  # Whoever has not asked yet takes what anybody has set last.
    later = threading.Thread(target=torch.set_num_threads, args=(1,))
    later.start()
    later.join()


def keep_freed_memory() -> None:
    """Have the allocator keep what a step frees for the next one, which needs it again.

    Otherwise glibc may hand the memory of activations back to the kernel after every step, only to have it faulted in anew:
    for a small CNN up to a third of the time. What is free beyond a gibibyte is still handed back.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_TRIM_THRESHOLD, 1 << 30)
        mallopt(_M_MMAP_THRESHOLD, 32 << 20)  # the most that glibc allows; it adapts neither any more


def count_cores() -> int:
    """Return the number of cores this process may use: its affinity, cut by the container's CPU limit."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = _CPU_QUOTA.read_text().split()
        return min(cores, max(1, math.ceil(int(quota) / int(period))))
    except (OSError, ValueError):
        return cores  # No limit ("max"), or no cgroup.


def set_determinism(spec: TrainingSpec, device: torch.device) -> None:
    """Choose between the fastest kernels and those that give the same bits every time."""
    if spec.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(mode=True)
    torch.backends.cudnn.benchmark = device.type == "cuda" and not spec.deterministic


def seed_everything(seed: int, rank: int) -> None:
    """Seed every generator. Ranks differ, so that they do not drop the same activations."""
    torch.manual_seed(seed + rank * 1_000_003)
    random.seed(seed + rank * 1_000_003)
