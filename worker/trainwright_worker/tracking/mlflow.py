"""Tracks a job as a run in MLflow. After a restart, the job continues its run, which is found by the job's UID."""

import importlib
import os
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlsplit

from trainwright.api.spec.outcome import MlflowSpec
from trainwright_worker.tracking.tracker import Ending, Record, RunInfo

UID_TAG: Final = "trainwright.uid"
_BATCH: Final = 100
"""Maximum number of params per request to the server; for metrics, it is ten times as many."""
_LONGEST_PARAM: Final = 500
_STATUS: Final = {Ending.FINISHED: "FINISHED", Ending.FAILED: "FAILED"}


class MlflowTracker:
    """Writes to an MLflow tracking server."""

    def __init__(self, spec: MlflowSpec, info: RunInfo) -> None:
        """Open the job's run, or create it."""
        if urlsplit(spec.uri).scheme in ("", "file"):
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # Newer releases require this for local folders.
        self._entities: Any = importlib.import_module("mlflow.entities")
        self._client: Any = importlib.import_module("mlflow").MlflowClient(tracking_uri=spec.uri)
        self._run, known = self._open(spec.experiment, info)
        self._seen = known
        self._client.update_run(self._run, status="RUNNING")

    def write(self, records: list[Record]) -> None:
        """Log metrics, except for steps that an earlier launch has already logged."""
        metrics = [
            self._entities.Metric(tag, value, int(record.seconds * 1000), record.step)
            for record in records
            for tag, value in record.values.items()
            if record.step > self._seen.get(tag, -1)
        ]
        for begin in range(0, len(metrics), 10 * _BATCH):
            self._client.log_batch(self._run, metrics=metrics[begin : begin + 10 * _BATCH])

    def close(self, ending: Ending, artifacts: Mapping[str, str]) -> None:
        """Set the artifacts' paths as tags and end the run; a preempted run stays open to continue later."""
        tags = [self._entities.RunTag(f"trainwright.{name}", path) for name, path in artifacts.items()]
        self._client.log_batch(self._run, tags=tags)
        if ending in _STATUS:
            self._client.set_terminated(self._run, _STATUS[ending])

    def _open(self, experiment: str, info: RunInfo) -> tuple[str, dict[str, int]]:
        """Return the id of the job's run, and the last step of each metric in it."""
        found = self._client.get_experiment_by_name(experiment)
        home = self._client.create_experiment(experiment) if found is None else found.experiment_id
        runs = self._client.search_runs([home], filter_string=f"tags.`{UID_TAG}` = '{info.uid}'", max_results=1)
        if runs:
            run = runs[0]
            history = self._client.get_metric_history
            return run.info.run_id, {
                tag: max(point.step for point in history(run.info.run_id, tag)) for tag in run.data.metrics
            }
        run = self._client.create_run(home, run_name=info.name, tags={UID_TAG: info.uid})
        params = [
            self._entities.Param(name, str(value)[:_LONGEST_PARAM]) for name, value in sorted(info.params.items())
        ]
        for begin in range(0, len(params), _BATCH):
            self._client.log_batch(run.info.run_id, params=params[begin : begin + _BATCH])
        return run.info.run_id, {}
