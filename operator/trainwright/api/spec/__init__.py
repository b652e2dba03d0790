"""What a user writes: `TrainingJobSpec` and its parts, one file per topic."""

from trainwright.api.spec.checkpoint import CheckpointSpec, StartFromSpec
from trainwright.api.spec.dataset import DatasetSpec
from trainwright.api.spec.evaluation import EvaluationSpec
from trainwright.api.spec.health import HealthSpec
from trainwright.api.spec.job import TrainingJobSpec
from trainwright.api.spec.model import ModelSpec
from trainwright.api.spec.objective import DistillationSpec, LossSpec, RegularizationSpec
from trainwright.api.spec.optimization import OptimizerSpec, ScheduleSpec
from trainwright.api.spec.outcome import ExplanationSpec, ExportSpec, GenerationSpec, PredictionSpec, TrackingSpec
from trainwright.api.spec.restart import RestartSpec
from trainwright.api.spec.scheduling import Gang, SchedulingSpec
from trainwright.api.spec.training import EarlyStoppingSpec, EmaSpec, TrainingSpec
from trainwright.api.spec.workers import WorkersSpec

__all__ = [
    "CheckpointSpec",
    "DatasetSpec",
    "DistillationSpec",
    "EarlyStoppingSpec",
    "EmaSpec",
    "EvaluationSpec",
    "ExplanationSpec",
    "ExportSpec",
    "Gang",
    "GenerationSpec",
    "HealthSpec",
    "LossSpec",
    "ModelSpec",
    "OptimizerSpec",
    "PredictionSpec",
    "RegularizationSpec",
    "RestartSpec",
    "ScheduleSpec",
    "SchedulingSpec",
    "StartFromSpec",
    "TrackingSpec",
    "TrainingJobSpec",
    "TrainingSpec",
    "WorkersSpec",
]
