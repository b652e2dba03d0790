"""The compute devices of this machine: assigns each GPU to one process, and tells whether the CPU supports bfloat16."""

import os
from collections.abc import Mapping
from pathlib import Path

from trainwright.api.devices import is_gpu
from trainwright.api.spec import TrainingJobSpec

_VISIBLE = "CUDA_VISIBLE_DEVICES"


def count_gpus(environment: Mapping[str, str] = os.environ, devices: Path = Path("/dev")) -> int:
    """Return how many GPUs jobs may use here."""
    return len(_gpus(environment, devices))


def asked(spec: TrainingJobSpec) -> str:
    """Return the GPUs that each worker asks for, `8 nvidia.com/gpu`; empty if it asks for none."""
    limits = spec.workers.resources.limits if spec.workers.resources and spec.workers.resources.limits else {}
    return ", ".join(f"{limits[key]} {key}" for key in limits if is_gpu(key))


def computes_bf16(cpu_info: Path = Path("/proc/cpuinfo")) -> bool:
    """Return whether this machine's CPU has instructions for bfloat16; true if that is unknown."""
    if not cpu_info.is_file():
        return True
    return bool({"avx512_bf16", "amx_bf16", "bf16"} & set(cpu_info.read_text(encoding="utf-8").split()))


def assign(
    spec: TrainingJobSpec, worker: int, environment: Mapping[str, str] = os.environ, devices: Path = Path("/dev")
) -> dict[str, str]:
    """Return the environment that shows a worker its own GPUs, or none when there are too few for all processes.

    Collectives refuse two processes on one GPU, and half a job on GPUs would only wait for the half on CPUs.
    """
    gpus = _gpus(environment, devices)
    if spec.world_size > len(gpus):
        return {_VISIBLE: ""} if gpus or _VISIBLE in environment else {}
    first, share = worker * spec.workers.processes_per_worker, spec.workers.processes_per_worker
    return {_VISIBLE: ",".join(gpus[first : first + share])}


def _gpus(environment: Mapping[str, str], devices: Path) -> list[str]:
    visible = environment.get(_VISIBLE)
    if visible is not None:
        return [gpu for gpu in visible.split(",") if gpu]
    numbers = (path.name.removeprefix("nvidia") for path in devices.glob("nvidia[0-9]*"))
    return sorted((number for number in numbers if number.isdigit()), key=int)
