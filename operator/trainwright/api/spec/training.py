"""Length of training, batch sizes and precision."""

from enum import StrEnum

from pydantic import Field

from trainwright.api.base import Model, one_of
from trainwright.api.spec.evaluation import MetricName


class Precision(StrEnum):
    """The arithmetic of the forward and backward pass."""

    FP32 = "fp32"
    BF16 = "bf16"
    FP16 = "fp16"


class EmaSpec(Model):
    """An exponential moving average of the weights, which is evaluated and exported in their place."""

    decay: float = Field(
        0.999,
        gt=0,
        lt=1,
        description="Fraction of the average that each step keeps. It is limited to (1 + steps) / (10 + steps), so that the "
        "initial weights soon lose their influence.",
    )


class EarlyStoppingSpec(Model):
    """Ends the job successfully when the validation metric stops improving."""

    metric: MetricName = Field(
        MetricName.LOSS, description="Metric that must improve. It also decides which evaluation is the best."
    )
    patience: int = Field(3, ge=1, le=100_000, description="Evaluations in a row without progress that are accepted.")
    min_delta: float = Field(0, ge=0, le=1_000_000, description="Smallest change that counts as progress.")


class TrainingSpec(Model):
    """How long to train, with which batch size and precision."""

    epochs: int | None = Field(None, ge=1, le=1_000_000, description="Passes over the training split.")
    steps: int | None = Field(None, ge=1, le=1_000_000_000, description="Optimizer steps, instead of epochs.")
    global_batch_size: int = Field(
        64, ge=1, le=10_000_000, description="Samples per optimizer step over all processes together."
    )
    micro_batch_size: int | None = Field(
        None,
        ge=1,
        le=10_000_000,
        description="Samples that one process passes through the model at once; a process with a larger share of "
        "the batch accumulates the gradients of several passes, which gives the same step in less memory. By default, "
        "the whole share at once.",
    )
    full_batch: bool = Field(
        False,
        description="Gradient descent: a step is the whole training split, "
        "passed in parts of microBatchSize. globalBatchSize is ignored. Every process holds its whole share of the split in "
        "memory.",
    )
    precision: Precision = Field(
        Precision.FP32,
        description="fp32; bf16 (autocast; weights stay fp32); fp16 (the same, with loss scaling so that small "
        "gradients do not underflow).",
    )
    compile: bool = Field(
        False,
        description="Compile the model (torch.compile): slow to start, then faster. A shorter last batch of an epoch and "
        "evaluations run without compilation.",
    )
    gradient_clipping: float | None = Field(
        None, gt=0, le=1_000_000, description="Largest allowed L2 norm of the gradient."
    )
    gradient_checkpointing: bool = Field(
        False,
        description="Recompute activations in the backward pass instead of storing them: about a third slower, with "
        "much less memory.",
    )
    ema: EmaSpec | None = Field(None, description="Evaluate and export a moving average of the weights.")
    early_stopping: EarlyStoppingSpec | None = Field(
        None, description="End when the validation metric stops improving."
    )
    seed: int = Field(0, ge=0, le=4_294_967_295, description="Seed of initial weights, shuffling and dropout.")
    deterministic: bool = Field(
        False, description="Only deterministic kernels: the same run gives the same bits, at some cost in speed."
    )

    rules = (one_of("epochs", "steps", what="training"),)
