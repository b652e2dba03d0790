"""Tracks a job as a run in Weights & Biases. The run's id is the job's UID, so a restarted job continues its run."""

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from trainwright.api.spec.outcome import WandbSpec
from trainwright_worker.tracking.tracker import Ending, Record, RunInfo

_EXIT_CODE: Final = {Ending.FINISHED: 0, Ending.FAILED: 1, Ending.PREEMPTED: 0}


class WandbTracker:
    """Writes to Weights & Biases, or to the job's folder in offline mode."""

    def __init__(self, spec: WandbSpec, info: RunInfo) -> None:
        """Open the job's run, or create it."""
        self._wandb: Any = importlib.import_module("wandb")
        Path(info.folder).mkdir(parents=True, exist_ok=True)
        # Do not upload console output, system metrics or code; only what rank 0 reports.
        quiet = self._wandb.Settings(
            silent=True, console="off", disable_git=True, disable_code=True, save_code=False, x_disable_stats=True
        )
        self._run = self._wandb.init(
            project=spec.project,
            name=info.name,
            id=info.uid,
            resume="allow",
            mode=spec.mode.value,
            dir=info.folder,
            config=dict(info.params),
            settings=quiet,
        )

    def write(self, records: list[Record]) -> None:
        """Log the values of each step; W&B itself ignores steps that it already has."""
        for record in records:
            self._run.log(dict(record.values), step=record.step)

    def close(self, ending: Ending, artifacts: Mapping[str, str]) -> None:
        """Add the paths of the artifacts to the run's summary, and end the run or (if preempted) its current part."""
        self._run.summary.update({f"artifacts/{name}": path for name, path in artifacts.items()})
        if ending == Ending.PREEMPTED:
            self._run.mark_preempting()
        self._run.finish(exit_code=_EXIT_CODE[ending])
