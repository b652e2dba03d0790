"""What a user writes: `TrainingJobSpec` and its parts, one file per topic."""

from trainwright.api.spec.dataset import DatasetSpec
from trainwright.api.spec.job import TrainingJobSpec
from trainwright.api.spec.model import ModelSpec
from trainwright.api.spec.outcome import ExplanationSpec, ExportSpec, GenerationSpec, PredictionSpec, TrackingSpec
from trainwright.api.spec.training import (
    EvaluationSpec,
    LossSpec,
    OptimizerSpec,
    RegularizationSpec,
    ScheduleSpec,
    TrainingSpec,
)
from trainwright.api.spec.workers import CheckpointSpec, RestartSpec, WorkersSpec

__all__ = [
    "CheckpointSpec",
    "DatasetSpec",
    "EvaluationSpec",
    "ExplanationSpec",
    "ExportSpec",
    "GenerationSpec",
    "LossSpec",
    "ModelSpec",
    "OptimizerSpec",
    "PredictionSpec",
    "RegularizationSpec",
    "RestartSpec",
    "ScheduleSpec",
    "TrackingSpec",
    "TrainingJobSpec",
    "TrainingSpec",
    "WorkersSpec",
]
