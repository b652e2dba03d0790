"""Where a process stands among the processes of the job."""

import os
from dataclasses import dataclass

from trainwright.api.names import ENV_SHARING_PROCESSES


@dataclass(frozen=True)
class RankPlacement:
    """The placement of one training process.

    Attributes:
        worker: Index of its worker pod; worker 0 hosts the rendezvous and the results.
        attempt: Attempt of the job that created the pod, counted from 1.
        round: Round of the rendezvous; a new one after every restart of the processes.
        local_rank: Number of the process within its worker.
        local_size: Processes per worker.
        rank: Number of the process within the job.
        size: Processes that train.
        absent: Workers that this round goes on without.
    """

    worker: int
    attempt: int
    round: int
    local_rank: int
    local_size: int
    rank: int
    size: int
    absent: tuple[int, ...] = ()

    @property
    def leads(self) -> bool:
        """Whether this is rank 0, which reports, saves and writes the results for all ranks."""
        return self.rank == 0

    @property
    def neighbours(self) -> int:
        """Processes that share the cores and the memory of this machine or container, this one included.

        In a container these are the processes of its worker. Where several workers run on one machine, the environment says how
        many processes there are.
        """
        return int(os.environ.get(ENV_SHARING_PROCESSES, self.local_size))
