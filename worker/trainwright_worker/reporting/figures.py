"""How fast this rank and the job are, measured when ranks meet."""

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
    """What was measured at a meeting.

    Attributes:
        samples_per_second: Throughput of this launch, over all processes.
        steps_per_second: The same in optimizer steps.
        tokens_per_second: The same in tokens, of language models.
        mfu: Share of the devices' peak arithmetic that the model makes use of.
        peak_memory_bytes: Most memory that this rank has held at once.
        step_seconds: Where the time of a step goes.
    """

    samples_per_second: float | None
    steps_per_second: float | None
    tokens_per_second: float | None
    mfu: float | None
    peak_memory_bytes: int
    step_seconds: StepTime | None

    def to_report(self) -> dict[str, Any]:
        """Return the fields of the report that were measured; what was not keeps its newest value."""
        fields = {name: getattr(self, name) for name in self.__dataclass_fields__}
        if self.step_seconds is None:
            del fields["step_seconds"]
        return fields


@dataclass(frozen=True)
class Scale:
    """What turns steps per second into the other figures.

    Attributes:
        tokens: Tokens of a sample, of language models.
        flops: Share of what all devices can do in a second at best that a step takes; None if unknown.
        device: Where this rank computes.
    """

    tokens: int | None
    flops: float | None
    device: torch.device

    def measure(self, samples: float | None, steps: float | None, parts: StepTime | None) -> Figures:
        """Return how fast the job is.

        Args:
            samples: Samples per second of this launch, over all processes.
            steps: The same in optimizer steps.
            parts: Where the time of a step goes.
        """
        tokens = None if samples is None or self.tokens is None else samples * self.tokens
        mfu = None if steps is None or self.flops is None else steps * self.flops
        return Figures(samples, steps, tokens, mfu, _peak_memory(self.device), parts)


def make_scale(
    spec: TrainingJobSpec, facts: Facts, preflight: Preflight | None, device: torch.device, processes: int
) -> Scale:
    """Return what figures of a job follow from.

    Args:
        spec: The job.
        facts: What its data is like.
        preflight: What was found out before the first step.
        device: Where this rank computes.
        processes: Number of ranks.
    """
    peak = _peak_arithmetic(device, spec.training.precision)
    return Scale(
        tokens=facts.shape[0] if spec.traits.target == Target.TOKENS else None,
        flops=None if preflight is None or peak is None else preflight.flops_per_step / (peak * processes),
        device=device,
    )


def _peak_arithmetic(device: torch.device, precision: Precision) -> float | None:
    """Return the operations per second of a GPU at best; None for a CPU, or if it is not in the table."""
    gpu = find_gpu(torch.cuda.get_device_name(device)) if device.type == "cuda" else None
    if gpu is None:
        return None
    return gpu.single if precision == Precision.FP32 else gpu.half


def _peak_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    # Linux counts in KiB, macOS in bytes.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
