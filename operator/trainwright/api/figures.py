"""What a job needs and how fast it runs: the preflight of a launch, the parts of a step's time, ranks that lag behind."""

from pydantic import Field

from trainwright.api.base import StatusModel

MOST_STRAGGLERS = 8
"""Ranks named as stragglers; where more lag behind, the reason is a common one."""


class MemoryUse(StatusModel):
    """Memory of one process at the peak of a step, in bytes, by what it holds."""

    weights: int = Field(0, ge=0, description="Parameters and buffers, this process's part of them.")
    gradients: int = Field(0, ge=0, description="Gradients of the parameters that are trained.")
    optimizer: int = Field(0, ge=0, description="What the optimizer remembers per parameter.")
    average: int = Field(0, ge=0, description="The moving average of the weights (training.ema).")
    saved: int = Field(
        0, ge=0, description="The copy that checkpoints are written from, where no GPU has its own memory."
    )
    teacher: int = Field(0, ge=0, description="The weights of the teacher (distillation).")
    casts: int = Field(0, ge=0, description="Copies of the weights in half precision.")
    gathered: int = Field(0, ge=0, description="Blocks of the model that are whole for a moment (FSDP).")
    batch: int = Field(0, ge=0, description="Inputs and targets of a step, this process's share of them.")
    activations: int = Field(0, ge=0, description="What the passes keep and work with, for one micro-batch.")
    logits: int = Field(0, ge=0, description="The model's outputs for one micro-batch.")

    @property
    def total(self) -> int:
        """All of it."""
        return sum(getattr(self, name) for name in type(self).model_fields)


class Preflight(StatusModel):
    """What was found out before the first step: the size of the job, and whether it fits."""

    parameters: int = Field(ge=0, description="Numbers in the model.")
    trainable: int = Field(ge=0, description="Numbers that training changes.")
    memory: MemoryUse = Field(description="Memory per process, by what it holds.")
    total_bytes: int = Field(ge=0, description="Memory per process, the sum.")
    available_bytes: int | None = Field(None, ge=0, description="Memory that each process has.")
    device: str = Field("", max_length=64, description="What it computes on.")
    flops_per_step: float = Field(0, ge=0, description="Floating-point operations per step, over all processes.")
    global_batch_size: int = Field(1, ge=1, description="Samples per step, over all processes.")
    micro_batch_size: int = Field(1, ge=1, description="Most samples per process and forward pass.")
    accumulation: int = Field(1, ge=1, description="Forward passes per step and process.")
    processes: int = Field(1, ge=1, description="Processes of the job.")
    dry_step_seconds: float | None = Field(None, ge=0, description="Duration of the dry step.")
    fits: bool = Field(True, description="Whether it fits.")
    message: str = Field("", max_length=1024, description="What it comes to in a sentence, and what would make it fit.")


class StepTime(StatusModel):
    """Where the time of a step goes on rank 0, in seconds; measured at some steps only, so that it costs nothing."""

    total: float = Field(ge=0, description="The whole step.")
    data: float = Field(ge=0, description="Waiting for the loader.")
    forward: float = Field(ge=0, description="Forward pass and loss.")
    backward: float = Field(ge=0, description="Backward pass.")
    communication: float = Field(ge=0, description="Waiting for gradients of other processes after the own were done.")
    optimizer: float = Field(ge=0, description="Clipping and the optimizer's update.")


class Straggler(StatusModel):
    """A process that takes longer for its own work than the others."""

    rank: int = Field(ge=0, description="Global rank.")
    worker: int | None = Field(None, ge=0, description="Index of its worker.")
    node: str | None = Field(None, max_length=253, description="Node it runs on.")
    factor: float = Field(ge=1, description="Its time in multiples of the median.")
