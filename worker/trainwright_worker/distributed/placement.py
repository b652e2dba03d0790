"""The placement of a process among the processes of the job."""

import os
from dataclasses import dataclass

from trainwright.api.names import ENV_SHARING_PROCESSES


@dataclass(frozen=True)
class RankPlacement:
    """The placement of one training process.

    Attributes:
        worker: Index of its worker pod; worker 0 hosts the rendezvous and the results.
        attempt: Attempt of the job that created the pod, counted from 1.
        round: Round of the rendezvous; every restart of the processes starts a new round.
        local_rank: Index of the process within its worker.
        local_size: Number of processes per worker.
        rank: Index of the process within the job.
        size: Number of training processes.
        absent: Workers that do not take part in this round.
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
        """Number of processes that share the cores and memory of this machine or container, including this one.

        In a container, these are the processes of its worker. If several workers run on one machine, an environment
        variable gives the number.
        """
        return int(os.environ.get(ENV_SHARING_PROCESSES, self.local_size))
