"""What a user writes: `TrainingJobSpec` and its parts, one file per topic."""

from trainwright.api.spec.dataset import DatasetSpec
from trainwright.api.spec.job import TrainingJobSpec
from trainwright.api.spec.model import ModelSpec
from trainwright.api.spec.training import (
    EvaluationSpec,
    LossSpec,
    OptimizerSpec,
    PredictionSpec,
    RegularizationSpec,
    ScheduleSpec,
    TrainingSpec,
)
from trainwright.api.spec.workers import CheckpointSpec, RestartSpec, WorkersSpec

__all__ = [
    "CheckpointSpec",
    "DatasetSpec",
    "EvaluationSpec",
    "LossSpec",
    "ModelSpec",
    "OptimizerSpec",
    "PredictionSpec",
    "RegularizationSpec",
    "RestartSpec",
    "ScheduleSpec",
    "TrainingJobSpec",
    "TrainingSpec",
    "WorkersSpec",
]
