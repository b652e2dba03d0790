"""Speed and memory of this rank and the job, measured at meetings."""

import resource
import sys
from dataclasses import dataclass
from typing import Any

import torch

from trainwright.api.devices import find_gpu
from trainwright.api.figures import Preflight, StepTime
from trainwright.api.spec import TrainingJobSpec
from trainwright.api.spec.source import Target
from trainwright.api.spec.training import Precision
from trainwright_worker.facts import Facts


@dataclass(frozen=True)
class Figures:
    """Measurements at a meeting.

    Attributes:
        samples_per_second: Throughput of this launch in samples, over all ranks.
        steps_per_second: Throughput in optimizer steps.
        tokens_per_second: Throughput in tokens, for language models.
        mfu: Model FLOPs utilization: fraction of the devices' peak floating-point operations that the model uses.
        peak_memory_bytes: Peak memory of this rank.
        step_seconds: Duration of the parts of a step.
    """

    samples_per_second: float | None
    steps_per_second: float | None
    tokens_per_second: float | None
    mfu: float | None
    peak_memory_bytes: int
    step_seconds: StepTime | None

    def to_report(self) -> dict[str, Any]:
        """Return the measurements as fields of the report, without step times if they were not measured this time."""
        fields = {name: getattr(self, name) for name in self.__dataclass_fields__}
        if self.step_seconds is None:
            del fields["step_seconds"]
        return fields


@dataclass(frozen=True)
class Scale:
    """Conversion of steps per second to other units.

    Attributes:
        tokens: Tokens per sample, for language models.
        flops: Floating-point operations of a step, as a fraction of the peak per second of all devices; None if
            unknown.
        device: Device of this rank.
    """

    tokens: int | None
    flops: float | None
    device: torch.device

    def measure(self, samples: float | None, steps: float | None, parts: StepTime | None) -> Figures:
        """Return the measurements.

        Args:
            samples: Samples per second of this launch, over all ranks.
            steps: Steps per second of this launch.
            parts: Duration of the parts of a step.
        """
        tokens = None if samples is None or self.tokens is None else samples * self.tokens
        mfu = None if steps is None or self.flops is None else steps * self.flops
        return Figures(samples, steps, tokens, mfu, _peak_memory(self.device), parts)


def make_scale(
    spec: TrainingJobSpec, facts: Facts, preflight: Preflight | None, device: torch.device, processes: int
) -> Scale:
    """Return the conversion for a job.

    Args:
        spec: The job.
        facts: Input shape, number of outputs and vocabulary size of the data.
        preflight: The estimate made before training.
        device: Device of this rank.
        processes: Number of ranks.
    """
    peak = _peak_arithmetic(device, spec.training.precision)
    return Scale(
        tokens=facts.shape[0] if spec.traits.target == Target.TOKENS else None,
        flops=None if preflight is None or peak is None else preflight.flops_per_step / (peak * processes),
        device=device,
    )


def _peak_arithmetic(device: torch.device, precision: Precision) -> float | None:
    """Return the peak operations per second of a GPU; None for a CPU or an unknown GPU."""
    gpu = find_gpu(torch.cuda.get_device_name(device)) if device.type == "cuda" else None
    if gpu is None:
        return None
    return gpu.single if precision == Precision.FP32 else gpu.half


def _peak_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    # The unit is KiB on Linux and bytes on macOS.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
