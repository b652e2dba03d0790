"""Where a process stands among the processes of the job."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Place:
    """The place of one training process.

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
        """Whether this is rank 0, which reports, saves and writes the results for all."""
        return self.rank == 0
