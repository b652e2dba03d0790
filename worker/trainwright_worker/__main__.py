"""The program of a worker pod: reads the config, runs the worker and writes its termination message."""

import gc
import os
import signal
from pathlib import Path

from pydantic import ValidationError

from trainwright.api.exit_codes import ExitCode, classify
from trainwright.api.names import (
    CONFIG_FILE,
    CONFIG_MOUNT,
    ENV_ATTEMPT,
    ENV_CONFIG,
    ENV_MIN_WORKERS,
    ENV_RENDEZVOUS_HOST,
    ENV_TERMINATION_LOG,
    ENV_WORKER_INDEX,
    ENV_WORKERS,
)
from trainwright.api.worker import Termination, WorkerConfig
from trainwright_worker.agent.termination import describe, write_termination
from trainwright_worker.console import leave, say

DEFAULT_TERMINATION_LOG = "/dev/termination-log"
SPINS = "1000"
"""How often a waiting thread checks for the others before it sleeps: about 10 us instead of OpenMP's 3 ms. Both are equally fast
while every thread has a core. If one has to wait for a core, 3 ms make a small model many times slower."""
_STOPPED_EARLY = Termination(
    exit_code=ExitCode.PREEMPTED, category=classify(ExitCode.PREEMPTED), message="stopped before training began"
)
"""The termination if SIGTERM arrives before the agent runs."""


def main() -> int:
    """Run the worker and return its exit code."""
    index = int(os.environ.get(ENV_WORKER_INDEX, "0"))
    os.environ.setdefault("GOMP_SPINCOUNT", SPINS)  # OpenMP reads it when torch is imported.
    # The first process of a container ignores signals that it has no handler for, and importing torch takes seconds. The
    # handler ends the process itself: an exception would be lost where the signal meets a callback of the import system.
    signal.signal(signal.SIGTERM, lambda *_: leave(_end(index, _STOPPED_EARLY)))
    return _end(index, _run(index))


def _end(index: int, ending: Termination) -> int:
    """Write the termination message and return the exit code."""
    write_termination(os.environ.get(ENV_TERMINATION_LOG, DEFAULT_TERMINATION_LOG), ending)
    if ending.exit_code != ExitCode.SUCCESS:
        say(f"worker {index}", f"exit code {ending.exit_code} ({ending.category}): {ending.message}")
    return ending.exit_code


def _run(index: int) -> Termination:
    try:
        path = Path(os.environ.get(ENV_CONFIG, f"{CONFIG_MOUNT}/{CONFIG_FILE}"))
        config = WorkerConfig.model_validate_json(path.read_bytes())
        if ENV_WORKERS in os.environ:
            least = os.environ.get(ENV_MIN_WORKERS)
            config = config.sized(int(os.environ[ENV_WORKERS]), None if least is None else int(least))
    except (OSError, ValidationError) as error:
        code = ExitCode.USER_ERROR
        return Termination(exit_code=code, category=classify(code), message=f"cannot read the config: {error}"[:1024])
    # Imports create a million objects and no garbage. Garbage collection would take a quarter of their time.
    gc.disable()
    try:
        from trainwright_worker.agent.worker import run_worker  # noqa: PLC0415 - torch takes seconds; a bad config needs none
        from trainwright_worker.rank.workload import Trainer  # noqa: PLC0415

        attempt, host = int(os.environ.get(ENV_ATTEMPT, "1")), os.environ.get(ENV_RENDEZVOUS_HOST, "localhost")
        return run_worker(config, index, attempt, host, Trainer(config))
    except Exception as error:  # noqa: BLE001 - a bug of ours must leave a termination message too
        return describe(error)


if __name__ == "__main__":
    leave(main())
