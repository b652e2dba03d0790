"""The request that `trainwright plan` sends to the worker's preflight process, and its answer."""

from pydantic import Field

from trainwright.api.base import Model
from trainwright.api.figures import Preflight
from trainwright.api.spec import TrainingJobSpec


class PreflightRequest(Model):
    """A job and the hardware that it would run on."""

    spec: TrainingJobSpec = Field(description="The job, with its paths resolved on this machine.")
    data_root: str = Field(description="Folder at which relative paths start.")
    absent: list[str] = Field([], description="Fields whose paths do not exist on this machine.")
    gpu: str | None = Field(None, description="Name of a GPU, as find_gpu knows it; None for this machine.")
    unnamed_gpu: bool = Field(
        False, description="Whether the job runs on GPUs of an unknown model that this machine does not have."
    )
    memory: int | None = Field(
        None, ge=1, description="Memory of each process in bytes; overrides the device's memory."
    )
    mfu: float = Field(0.4, gt=0, le=1, description="Expected fraction of the device's peak arithmetic.")


class Remedy(Model):
    """A change that makes the job fit."""

    change: str = Field(description="What to change.")
    processes: int = Field(ge=1, description="Number of processes after the change.")
    bytes: int = Field(ge=0, description="Memory per process after the change, in bytes.")


class PreflightAnswer(Model):
    """The result of the preflight."""

    preflight: Preflight | None = Field(
        None, description="Resources that the job needs; None if the job has a mistake."
    )
    table: list[str] = Field([], description="The same, as lines to print.")
    assumed: list[str] = Field([], description="Assumptions about data and weights that are missing on this machine.")
    ways: list[Remedy] = Field([], description="Changes that would make the job fit.")
    seconds_per_step: float | None = Field(
        None, ge=0, description="Duration of a step at the expected fraction of the peak."
    )
    mistake: str | None = Field(None, description="What is wrong with the job.")
    hint: str | None = Field(None, description="What to do about it.")
