"""Our trainer as the workload of an agent: one process per rank, forked from the agent with all its imports done."""

from trainwright.api.worker import WorkerConfig
from trainwright_worker.agent.workload import Launch
from trainwright_worker.data.readers import preload as preload_readers
from trainwright_worker.distributed.processes import Processes
from trainwright_worker.models.build import preload as preload_model
from trainwright_worker.rank.rank import run_rank
from trainwright_worker.storage import preload as preload_storage
from trainwright_worker.tasks.table import make_task


class Trainer:
    """Trains the model of a job."""

    def __init__(self, config: WorkerConfig) -> None:
        """Create the workload; processes start only with `start`.

        Args:
            config: The worker's config.
        """
        self._config = config

    def preload(self) -> None:
        """Import the libraries that this job needs for its data, model, metrics and storage."""
        preload_readers(self._config.spec.dataset)
        preload_model(self._config.spec.model)
        preload_storage(self._config.job_folder)
        make_task(self._config.spec).preload()

    def start(self, launch: Launch) -> Processes:
        """Fork one rank per placement."""
        ranks = zip(launch.placements, launch.pulses, strict=True)
        return Processes(
            run_rank,
            [(self._config, placement, launch.host, launch.scratch, pulse, launch.cause) for placement, pulse in ranks],
        )
