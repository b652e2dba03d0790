"""The trackers of a job, and the conversion of rank 0's reports to records."""

import importlib.util
import math
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Final
from urllib.parse import urlsplit

from trainwright.api.base import Model
from trainwright.api.figures import Evaluation
from trainwright.api.spec.outcome import TrackingSpec, WandbMode
from trainwright.api.spec.paths import is_uri
from trainwright.api.worker import WorkerConfig
from trainwright_worker.errors import UserError
from trainwright_worker.tracking.mlflow import MlflowTracker
from trainwright_worker.tracking.recorder import Recorder
from trainwright_worker.tracking.tracker import Ending, Record, RunInfo, Tracker, flatten
from trainwright_worker.tracking.wandb import WandbTracker

NETWORK_PAUSE: Final = 5.0
"""Seconds between batches of records for trackers that use the network."""
OBJECT_PAUSE: Final = 30.0
"""Seconds between versions of an event file in an object store."""
_NEVER_PLOTTED: Final = frozenset({"step", "total_steps", "total_epochs", "resumed_from_step"})
_DATABASES: Final = frozenset({"sqlite", "postgresql", "mysql", "mssql"})


class Tracking:
    """The trackers of a job, on rank 0."""

    def __init__(self, config: WorkerConfig, attempt: int, resumed: int, warn: Callable[[str], None]) -> None:
        """Start the trackers of the spec.

        Args:
            config: The worker's config.
            attempt: Attempt of this launch.
            resumed: Step from which this launch resumes.
            warn: Called from another thread if a tracker fails.
        """
        spec = config.spec.tracking
        folder = config.job_folder
        kept = tempfile.gettempdir() if is_uri(folder) else folder
        info = RunInfo(config.name, config.uid, attempt, resumed, flatten(config.spec.to_wire()), kept)
        self._recorders: list[Recorder] = []
        self._evaluated: tuple[str, int] | None = None
        self._newest = resumed
        if spec.tensorboard:
            make = partial(_make_tensorboard, f"{folder}/tensorboard", info)
            # Records are appended to a file, but an object must be rewritten as a whole, so write it less often.
            self._recorders.append(Recorder("tensorboard", make, OBJECT_PAUSE if is_uri(folder) else 0.0, warn))
        if spec.mlflow is not None:
            self._recorders.append(Recorder("mlflow", partial(MlflowTracker, spec.mlflow, info), NETWORK_PAUSE, warn))
        if spec.wandb is not None:
            self._recorders.append(Recorder("wandb", partial(WandbTracker, spec.wandb, info), NETWORK_PAUSE, warn))

    def record_report(self, changes: Mapping[str, object]) -> None:
        """Record the measurements in changes of rank 0's report.

        Args:
            changes: Fields of the report. With a `loss`, the numbers of that step are recorded; with an `evaluation`,
                its metrics.
        """
        step, evaluation = changes.get("step"), changes.get("evaluation")
        if isinstance(step, int) and changes.get("loss") is not None:
            self._record(step, {f"train/{name}": value for name, value in _numbers(changes).items()})
        if isinstance(evaluation, Evaluation) and (evaluation.split, evaluation.step) != self._evaluated:
            self._evaluated = (evaluation.split, evaluation.step)
            metrics = {f"{evaluation.split}/{name}": value for name, value in evaluation.metrics.items()}
            # The final test may be of an earlier step (the best one). It is recorded at the last step, because trackers
            # would take a lower step for a rollback of training.
            at = max(self._newest, evaluation.step) if evaluation.split == "test" else evaluation.step
            self._record(at, metrics)

    def close(self, ending: Ending, artifacts: Mapping[str, str], seconds: float) -> None:
        """End the runs of all trackers, in at most `seconds`."""
        deadline = time.monotonic() + seconds
        for recorder in self._recorders:
            recorder.end(ending, artifacts)
        for recorder in self._recorders:
            recorder.join(max(0.0, deadline - time.monotonic()))
        self._recorders = []

    def _record(self, step: int, values: Mapping[str, float]) -> None:
        self._newest = step
        finite = {name: value for name, value in values.items() if math.isfinite(value)}
        for recorder in self._recorders:
            recorder.add(Record(step, time.time(), finite))


def _make_tensorboard(folder: str, info: RunInfo) -> Tracker:
    # Imported in the tracker's thread with the first record, so that no step waits for it.
    from trainwright_worker.tracking.tensorboard import TensorboardTracker  # noqa: PLC0415

    return TensorboardTracker(folder, info)


def check_tracking(spec: TrackingSpec, job_folder: str) -> None:
    """Check before training that the trackers of a job can be used.

    Raises:
        UserError: A package is missing, or there is no folder for the files of an offline tracker.
    """
    for name, package in (("mlflow", "mlflow-skinny"), ("wandb", "wandb")):
        if getattr(spec, name) is not None and importlib.util.find_spec(name) is None:
            raise UserError(
                f"spec.tracking.{name}: the image lacks the package {package}",
                f"add {package} to the image in spec.workers.image, or remove spec.tracking.{name}",
            )
    if spec.mlflow is not None:
        scheme = urlsplit(spec.mlflow.uri).scheme.partition("+")[0]
        if scheme in _DATABASES and importlib.util.find_spec("sqlalchemy") is None:
            raise UserError(
                f"spec.tracking.mlflow.uri: {scheme} needs the full mlflow package, which the image lacks",
                "use a tracking server (http://...), or an image with mlflow in spec.workers.image",
            )
    if spec.wandb is not None and spec.wandb.mode == WandbMode.OFFLINE and is_uri(job_folder):
        raise UserError(
            f"spec.tracking.wandb.mode: offline keeps files in the job's folder, but {job_folder} is not a file system",
            "use mode online, or keep checkpoints on a persistent volume",
        )


def _numbers(changes: Mapping[str, object]) -> dict[str, float]:
    """Return the numbers among the fields of a report; nested ones are named `part/name`."""
    numbers: dict[str, float] = {}
    for name, value in changes.items():
        if isinstance(value, int | float) and not isinstance(value, bool) and name not in _NEVER_PLOTTED:
            numbers[name] = float(value)
        elif isinstance(value, Model) and not isinstance(value, Evaluation):
            inner = flatten(value.to_wire(), name)
            numbers |= {key.replace(".", "/"): float(n) for key, n in inner.items() if type(n) in (int, float)}
    return numbers
