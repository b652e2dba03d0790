"""A run in Weights & Biases, whose id is the job's UID: a restarted launch goes on with the run of the one before."""

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from trainwright.api.spec.outcome import WandbSpec
from trainwright_worker.tracking.tracker import Ending, Record, RunInfo

_EXIT_CODE: Final = {Ending.FINISHED: 0, Ending.FAILED: 1, Ending.PREEMPTED: 0}


class WandbTracker:
    """Writes to Weights & Biases, or into the job's folder when offline."""

    def __init__(self, spec: WandbSpec, info: RunInfo) -> None:
        """Open the job's run, or begin one."""
        self._wandb: Any = importlib.import_module("wandb")
        Path(info.folder).mkdir(parents=True, exist_ok=True)
        # The console, the machine and the code around us are none of its business; rank 0 reports what it should know.
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
        """Log the values of each step; W&B itself drops steps that it has seen."""
        for record in records:
            self._run.log(dict(record.values), step=record.step)

    def close(self, ending: Ending, artifacts: Mapping[str, str]) -> None:
        """Put the paths of the artifacts into the run's summary, and end this part of the run."""
        self._run.summary.update({f"artifacts/{name}": path for name, path in artifacts.items()})
        if ending == Ending.PREEMPTED:
            self._run.mark_preempting()
        self._run.finish(exit_code=_EXIT_CODE[ending])
