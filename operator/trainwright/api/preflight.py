"""What `trainwright plan` passes to the worker's preflight, which runs in another process, and what comes back."""

from pydantic import Field

from trainwright.api.base import Model
from trainwright.api.figures import Preflight
from trainwright.api.spec import TrainingJobSpec


class PreflightRequest(Model):
    """A job and what it would run on."""

    spec: TrainingJobSpec = Field(description="The job, its paths as this machine has them.")
    data_root: str = Field(description="Folder at which relative paths start.")
    absent: list[str] = Field([], description="Fields whose paths lead to nothing on this machine.")
    gpu: str | None = Field(None, description="Name of a GPU, as find_gpu knows it; None for this machine.")
    unnamed_gpu: bool = Field(
        False, description="Whether it runs on GPUs of which this machine has none and nobody knows the name."
    )
    memory: int | None = Field(None, ge=1, description="Bytes that each process has, whatever the device has.")
    mfu: float = Field(0.4, gt=0, le=1, description="Share of the device's peak arithmetic to expect.")


class Remedy(Model):
    """A change that makes the job fit."""

    change: str = Field(description="What to change.")
    processes: int = Field(ge=1, description="Processes of the job then.")
    bytes: int = Field(ge=0, description="Memory per process then.")


class PreflightAnswer(Model):
    """What the preflight found out."""

    preflight: Preflight | None = Field(None, description="What the job needs; None if there is a mistake.")
    table: list[str] = Field([], description="The same as lines to print.")
    assumed: list[str] = Field([], description="What was assumed about data and weights that are not at hand.")
    ways: list[Remedy] = Field([], description="What would make it fit.")
    seconds_per_step: float | None = Field(
        None, ge=0, description="Duration of a step at the expected share of the peak."
    )
    mistake: str | None = Field(None, description="What is wrong with the job.")
    hint: str | None = Field(None, description="What to do about it.")
