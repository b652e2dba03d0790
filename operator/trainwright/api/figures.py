"""What is measured of a job: the preflight of a launch, loss and speed, the parts of a step's time, evaluations."""

from typing import Annotated

from pydantic import ConfigDict, Field

from trainwright.api.base import Model, StatusModel

MOST_STRAGGLERS = 8
"""Ranks named as stragglers; where more lag behind, they have a common cause."""
MetricValues = Annotated[dict[str, float], Field(max_length=64)]


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


class Evaluation(StatusModel):
    """What was measured on data that was not trained on."""

    split: str = Field(max_length=16, description="validation or test.")
    step: int = Field(ge=0, description="Optimizer step at which it was measured.")
    metrics: MetricValues = Field(
        description="loss; what its task always has, as accuracy (classification) or mae and r2 (regression); and what "
        "spec.evaluation.metrics adds."
    )
    undefined: list[str] | None = Field(
        None,
        max_length=16,
        description="Metrics that have no value on this split, as auroc where all samples are of one class.",
    )


class Measurements(Model):
    """What is measured while a job trains: a report carries these values, and the status keeps the newest ones."""

    # A newer worker may measure more than this operator knows.
    model_config = ConfigDict(extra="ignore")

    loss: float | None = Field(None, description="Training loss, mean since the report before.")
    learning_rate: float | None = Field(None, description="Learning rate of the newest step.")
    grad_norm: float | None = Field(None, description="L2 norm of the gradient at the newest step.")
    samples_per_second: float | None = Field(None, ge=0, description="Throughput over all processes, this attempt.")
    steps_per_second: float | None = Field(None, ge=0, description="Optimizer steps per second, this attempt.")
    tokens_per_second: float | None = Field(
        None, ge=0, description="Tokens per second over all processes, this attempt (language models)."
    )
    mfu: float | None = Field(
        None, ge=0, description="Share of the GPUs' peak arithmetic that the model makes use of, 0 to 1."
    )
    peak_memory_bytes: int | None = Field(None, ge=0, description="Most memory that rank 0 has held at once.")
    step_seconds: StepTime | None = Field(None, description="Where the time of a step goes.")
    stragglers: list[Straggler] = Field(
        [], max_length=MOST_STRAGGLERS, description="Processes that lag behind the others, the slowest first."
    )
    evaluation: Evaluation | None = Field(None, description="The newest evaluation.")
    best: Evaluation | None = Field(None, description="The best evaluation on the validation split so far.")
