"""GPUs by name, with their memory and peak arithmetic: used to plan for GPUs of other machines and to compute MFU.

Sources, all of NVIDIA and all without sparsity: datasheets of B200 (HGX), H200, H100, A100, L40S, L4, A10, V100 and T4, and
the Ada architecture's whitepaper (RTX 4090). Matrix arithmetic in bfloat16 (float16 where there is none) with sums in
float32; `single` is plain float32, which PyTorch uses unless told otherwise.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from trainwright.api.amounts import quantity_value

_GB: Final = 10**9
_TERA: Final = 10**12


@dataclass(frozen=True)
class Gpu:
    """A GPU.

    Attributes:
        name: Its name in messages.
        memory: Its memory, in bytes.
        half: Floating-point operations per second in half precision.
        single: The same in float32.
    """

    name: str
    memory: int
    half: float
    single: float


GPUS: Final = {
    name.lower(): Gpu(name, memory * _GB, half * _TERA, single * _TERA)
    for name, memory, half, single in (
        ("B200", 180, 2250, 75),
        ("H200", 141, 989.4, 66.9),
        ("H100", 80, 989.4, 66.9),
        ("H100-PCIe", 80, 756, 51),
        ("A100-80GB", 80, 312, 19.5),
        ("A100-40GB", 40, 312, 19.5),
        ("L40S", 48, 362, 91.6),
        ("L4", 24, 121, 30.3),
        ("A10", 24, 125, 31.2),
        ("V100-32GB", 32, 125, 15.7),
        ("V100-16GB", 16, 125, 15.7),
        ("T4", 16, 65, 8.1),
        ("RTX-4090", 24, 165.2, 82.6),
    )
}
_SLICE: Final = re.compile(r"[-_\s]+MIG[-_\s]+(?P<parts>\d)g\.(?P<memory>\d+)gb", re.IGNORECASE)
_PARTS: Final = 7
"""Number of compute slices into which MIG divides a GPU."""
_ALIASES: Final = {"a100": "a100-40gb", "v100": "v100-16gb", "a10g": "a10"}


def is_gpu(resource: str) -> bool:
    """Return whether a Kubernetes resource is a GPU or a slice of one.

    Args:
        resource: Its name with its domain: `nvidia.com/gpu`, `amd.com/gpu`, `nvidia.com/gpu.shared`, `nvidia.com/mig-1g.5gb`.
    """
    return resource.endswith("/gpu") or "/gpu." in resource or "/mig-" in resource


def is_gpu_in_cel(name: str) -> str:
    """Return the same test as a CEL expression over a variable of this name."""
    return f"{name}.endsWith('/gpu') || {name}.contains('/gpu.') || {name}.contains('/mig-')"


def count_gpus(limits: Mapping[str, int | str]) -> int:
    """Return how many GPUs of any vendor the limits of a worker ask for. A slice of a GPU counts as one."""
    return int(sum(quantity_value(amount) for resource, amount in limits.items() if is_gpu(resource)))


def find_gpu(name: str) -> Gpu | None:
    """Return the GPU for a name as a person, a driver or a node label writes it; None if it is not in the table.

    Args:
        name: For example `h200`, `rtx4090`, `NVIDIA A100-SXM4-80GB`, `NVIDIA-H100-80GB-HBM3`, or of a slice
            `NVIDIA-H100-80GB-HBM3-MIG-1g.10gb`.
    """
    slice_ = _SLICE.search(name)
    if slice_ is not None:
        whole = find_gpu(name[: slice_.start()])
        return None if whole is None else _part(whole, int(slice_["parts"]), int(slice_["memory"]))
    words = set(re.split(r"[-_\s]+", name.lower()))
    if "mig" in words:
        return None  # A slice of unknown size.
    fitting = [key for key in GPUS if set(key.split("-")) <= words or key.replace("-", "") in words]
    if fitting:
        return GPUS[max(fitting, key=len)]
    alias = next((_ALIASES[word] for word in sorted(words) if word in _ALIASES), None)
    return None if alias is None else GPUS[alias]


def _part(whole: Gpu, parts: int, memory: int) -> Gpu:
    """Return a slice of a GPU that was partitioned with MIG."""
    share = parts / _PARTS
    return Gpu(f"{whole.name}-MIG-{parts}g.{memory}gb", memory * _GB, whole.half * share, whole.single * share)
