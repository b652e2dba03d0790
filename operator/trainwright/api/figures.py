"""Measurements of a job: the preflight of a launch, loss and throughput, the breakdown of a step's time, evaluations."""

from typing import Annotated

from pydantic import ConfigDict, Field

from trainwright.api.base import Model, StatusModel

MOST_STRAGGLERS = 8
"""Most ranks that are named as stragglers. If more ranks are slow, they probably share one cause."""
MetricValues = Annotated[dict[str, float], Field(max_length=64)]


class MemoryUse(StatusModel):
    """Memory of one process at the peak of a step, in bytes, by use."""

    weights: int = Field(0, ge=0, description="This process's parameters and buffers.")
    gradients: int = Field(0, ge=0, description="Gradients of the trainable parameters.")
    optimizer: int = Field(0, ge=0, description="State of the optimizer.")
    average: int = Field(0, ge=0, description="The moving average of the weights (training.ema).")
    saved: int = Field(0, ge=0, description="Copy of the state from which checkpoints are written (CPU training only).")
    teacher: int = Field(0, ge=0, description="The weights of the teacher (distillation).")
    casts: int = Field(0, ge=0, description="Copies of the weights in half precision.")
    gathered: int = Field(0, ge=0, description="Blocks of the model that FSDP has gathered at one time.")
    batch: int = Field(0, ge=0, description="This process's share of a step's inputs and targets.")
    activations: int = Field(0, ge=0, description="Activations and temporary buffers of one micro-batch.")
    logits: int = Field(0, ge=0, description="The model's outputs for one micro-batch.")

    @property
    def total(self) -> int:
        """The sum of all uses."""
        return sum(getattr(self, name) for name in type(self).model_fields)


class Preflight(StatusModel):
    """Result of the preflight before the first step: the size of the job and whether it fits into memory."""

    parameters: int = Field(ge=0, description="Number of parameters of the model.")
    trainable: int = Field(ge=0, description="Number of trainable parameters.")
    memory: MemoryUse = Field(description="Memory per process, by use.")
    total_bytes: int = Field(ge=0, description="Total memory per process.")
    available_bytes: int | None = Field(None, ge=0, description="Memory available to each process.")
    device: str = Field("", max_length=64, description="Device that the process computes on.")
    flops_per_step: float = Field(0, ge=0, description="Floating-point operations per step, over all processes.")
    global_batch_size: int = Field(1, ge=1, description="Samples per step, over all processes.")
    micro_batch_size: int = Field(1, ge=1, description="Most samples per process and forward pass.")
    accumulation: int = Field(1, ge=1, description="Forward passes per step and process.")
    processes: int = Field(1, ge=1, description="Processes of the job.")
    dry_step_seconds: float | None = Field(None, ge=0, description="Duration of the dry step.")
    fits: bool = Field(True, description="Whether the job fits into the available memory.")
    message: str = Field(
        "", max_length=1024, description="Summary in a sentence, and what to change if the job does not fit."
    )


class StepTime(StatusModel):
    """Breakdown of a step's time on rank 0, in seconds. Only some steps are measured, to keep the overhead negligible."""

    total: float = Field(ge=0, description="The whole step.")
    data: float = Field(ge=0, description="Waiting for the loader.")
    forward: float = Field(ge=0, description="Forward pass and loss.")
    backward: float = Field(ge=0, description="Backward pass.")
    communication: float = Field(
        ge=0, description="Waiting for the gradients of other processes after this process has computed its own."
    )
    optimizer: float = Field(ge=0, description="Clipping and the optimizer's update.")


class Straggler(StatusModel):
    """A process whose own work takes longer than that of the others."""

    rank: int = Field(ge=0, description="Global rank.")
    worker: int | None = Field(None, ge=0, description="Index of its worker.")
    node: str | None = Field(None, max_length=253, description="Node it runs on.")
    factor: float = Field(ge=1, description="Its time divided by the median time.")


class Evaluation(StatusModel):
    """Metrics measured on data that was not trained on."""

    split: str = Field(max_length=16, description="validation or test.")
    step: int = Field(ge=0, description="Optimizer step at which it was measured.")
    metrics: MetricValues = Field(
        description="loss; the metrics that the task always has, such as accuracy (classification) or mae and r2 (regression); and "
        "those of spec.evaluation.metrics."
    )
    undefined: list[str] | None = Field(
        None,
        max_length=16,
        description="Metrics that are undefined on this split, such as auroc if all samples are of one class.",
    )


class Measurements(Model):
    """Measurements taken while a job trains. A report carries these values, and the status keeps the newest ones."""

    # A newer worker may measure more than this operator knows.
    model_config = ConfigDict(extra="ignore")

    loss: float | None = Field(None, description="Mean training loss since the previous report.")
    learning_rate: float | None = Field(None, description="Learning rate of the newest step.")
    grad_norm: float | None = Field(None, description="L2 norm of the gradient at the newest step.")
    samples_per_second: float | None = Field(None, ge=0, description="Throughput over all processes, this attempt.")
    steps_per_second: float | None = Field(None, ge=0, description="Optimizer steps per second, this attempt.")
    tokens_per_second: float | None = Field(
        None, ge=0, description="Tokens per second over all processes, this attempt (language models)."
    )
    mfu: float | None = Field(
        None,
        ge=0,
        description="Model FLOPs utilization: the fraction of the GPUs' peak arithmetic that the model uses, 0 to 1.",
    )
    peak_memory_bytes: int | None = Field(None, ge=0, description="Peak memory of rank 0.")
    step_seconds: StepTime | None = Field(None, description="Breakdown of a step's time.")
    stragglers: list[Straggler] = Field(
        [], max_length=MOST_STRAGGLERS, description="Processes that lag behind the others, the slowest first."
    )
    evaluation: Evaluation | None = Field(None, description="The newest evaluation.")
    best: Evaluation | None = Field(None, description="The best evaluation on the validation split so far.")
