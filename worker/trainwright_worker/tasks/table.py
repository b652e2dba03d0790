"""The table of tasks by name."""

from typing import Final

from trainwright.api.spec import TrainingJobSpec
from trainwright.api.spec.task import TaskName
from trainwright_worker.tasks.classification import Classification
from trainwright_worker.tasks.language_modeling import LanguageModeling
from trainwright_worker.tasks.regression import Regression
from trainwright_worker.tasks.task import Task
from trainwright_worker.tasks.transcription import Transcription

_TASKS: Final[dict[TaskName, type[Task]]] = {
    TaskName.CLASSIFICATION: Classification,
    TaskName.REGRESSION: Regression,
    TaskName.LANGUAGE_MODELING: LanguageModeling,
    TaskName.TRANSCRIPTION: Transcription,
}


def make_task(spec: TrainingJobSpec) -> Task:
    """Return the task of a job."""
    return _TASKS[spec.task](spec)
