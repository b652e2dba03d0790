"""The worker's main process: torch's own elastic agent, kept alive across failures.

The agent (`SimpleElasticAgent`) owns the states of a worker: join the rendezvous, start the processes, watch them, start
them again when they fail or when the others open a new round. This module adds decisions:

- A failure that would repeat itself (user error, data, non-finite, out of memory, or as `spec.restart.onFailure` says)
  ends the worker at once with that exit code. One that may pass is retried in place, `spec.restart.limit` times.
- Losing a peer is not this worker's failure: it waits for the replacement and that counts against no limit. The same
  holds when the job agreed to stop because another worker was told to, or when a rank of another worker hangs.
- SIGTERM is passed on. The processes save and end; the worker then exits as Preempted inside its grace period, whatever
  has become of its peers.
"""

import multiprocessing
import os
import signal
import time
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any, Final

from torch.distributed.elastic.agent.server.api import (
    RunResult,
    SimpleElasticAgent,
    WorkerGroup,
    WorkerSpec,
    WorkerState,
)
from torch.distributed.elastic.events.api import Event, EventSource

from trainwright.api.exit_codes import RETRYABLE, ExitCode, classify
from trainwright.api.spec.restart import Reaction
from trainwright.api.worker import Termination, WorkerConfig
from trainwright_worker.agent.hang_diagnosis import HangDiagnosis
from trainwright_worker.agent.hang_investigation import HangInvestigation, leave_cause, read_cause
from trainwright_worker.agent.rendezvous import NumberedRendezvous
from trainwright_worker.agent.termination import (
    PostMortem,
    count_oom_kills,
    read_failures,
)
from trainwright_worker.agent.watchdog import Watchdog, WatchedRank
from trainwright_worker.agent.workload import Launch, RunningProcesses, Workload
from trainwright_worker.console import say
from trainwright_worker.distributed.placement import RankPlacement
from trainwright_worker.reporting.pulse import Pulse

MONITOR_SECONDS: Final = 0.05
STOP_SECONDS: Final = 5.0
"""How long processes may take to end before a restart; they have nothing to save that a checkpoint does not hold."""
CAUSE_SECONDS: Final = 2.0
"""How long to wait for the first cause when the failure seen first is only a consequence, or the store is gone."""
LEAVE_SECONDS: Final = 30.0
GRACE_SHARE: Final = 0.8
"""Share of the pod's grace period that the processes get to save; the rest is for our own exit."""


class WorkerAgent(SimpleElasticAgent):
    """torch's elastic agent for the processes of one worker.

    Attributes:
        failure: Why the last launch of the processes failed; None while nothing has.
    """

    def __init__(
        self, config: WorkerConfig, index: int, attempt: int, host: str, scratch: Path, workload: Workload
    ) -> None:
        """Prepare; nothing starts before `run`.

        Args:
            config: The worker's config.
            index: Index of this worker.
            attempt: Attempt of the job that created this worker's pod.
            host: Host name of worker 0.
            scratch: Folder in which failed processes leave their post-mortems.
            workload: What the processes do.
        """
        # All workers have the same number of processes: ranks follow from the index without another exchange.
        os.environ["TORCH_ELASTIC_WORKER_IDENTICAL"] = "1"
        self._rendezvous_handler = NumberedRendezvous(config, index, attempt, host, lambda: self.stopping)
        super().__init__(
            WorkerSpec(
                role="worker",
                local_world_size=config.spec.workers.processes_per_worker,
                rdzv_handler=self._rendezvous_handler,
                entrypoint=type(workload).__name__,  # torch only logs it; `_start_workers` starts the processes.
                max_restarts=config.spec.restart.limit,
                monitor_interval=MONITOR_SECONDS,
            )
        )
        self.failure: PostMortem | None = None
        self._config = config
        self._index = index
        self._attempt = attempt
        self._scratch = scratch
        self._workload = workload
        self._processes: RunningProcesses | None = None
        self._stop_by: float | None = None
        self._oom_kills = count_oom_kills()
        self._watchdog: Watchdog | None = None
        self._launched = 0
        self._pulses: list[Pulse] = []

    @property
    def stopping(self) -> bool:
        """Whether this worker was told to stop."""
        return self._stop_by is not None

    @property
    def _grace(self) -> float:
        return GRACE_SHARE * self._config.spec.workers.termination_grace_period_seconds

    def request_stop(self, _signal: int, _frame: FrameType | None) -> None:
        """Handle SIGTERM (or Ctrl-C): have the processes save and end."""
        if self._stop_by is None:
            self._stop_by = time.monotonic() + self._grace
            if self._processes is not None:
                self._processes.signal(signal.SIGTERM)

    # -- what torch's agent calls ------------------------------------------------------------------------------------

    def _start_workers(self, worker_group: WorkerGroup) -> dict[int, Any]:
        size = self._config.spec.workers.processes_per_worker
        for leftover in filter(Path.is_file, self._scratch.iterdir()):
            leftover.unlink()
        rendezvous = self._rendezvous_handler
        cause = read_cause(rendezvous.keys, self._launched) if self._launched else None
        placements = [self._placement(worker.local_rank, size) for worker in worker_group.workers]
        pulses = [multiprocessing.RawValue(Pulse) for _ in placements]
        for pulse, before in zip(pulses, self._pulses, strict=False):
            pulse.sequence = before.sequence
        self._pulses = pulses
        self._processes = self._workload.start(Launch(placements, rendezvous.host, self._scratch, pulses, cause))
        pids = self._processes.pids
        ranks = [
            WatchedRank(placement.rank, pids[placement.local_rank], pulses[placement.local_rank])
            for placement in placements
        ]
        investigation = HangInvestigation(rendezvous.keys, rendezvous.round, self._index, rendezvous.members)
        self._watchdog = Watchdog(self._config.spec.health.hang, self._index, ranks, self._scratch, investigation)
        self._launched = rendezvous.round
        if self.stopping:
            self._processes.signal(signal.SIGTERM)
        return dict(self._processes.pids)

    # Releases of torch differ in the further arguments of these two; none of them matters here.
    def _stop_workers(self, worker_group: WorkerGroup, *_: object, **__: object) -> None:  # noqa: ARG002
        if self._processes is not None:
            # To admit others all ranks save first, and all of them are still there to do so together.
            self._processes.stop(self._grace if self._rendezvous_handler.growing else STOP_SECONDS)

    def _shutdown(self, *_: object, **__: object) -> None:
        if self._processes is not None:
            self._processes.stop(0.0 if self.stopping else STOP_SECONDS)

    def _monitor_workers(self, worker_group: WorkerGroup) -> RunResult:
        if self._processes is None:
            return RunResult(state=WorkerState.UNKNOWN)
        ended = self._processes.ended()
        if any(ended.values()):
            self.failure = self._find_cause()
            self._decide(self.failure)
            return RunResult(state=WorkerState.FAILED)
        if self._processes.running():
            if self._stop_by is not None and time.monotonic() > self._stop_by:
                self._processes.signal(signal.SIGKILL)
            diagnosis = self._look_after_ranks()
            if diagnosis is None:
                return RunResult(state=WorkerState.HEALTHY)
            self.failure = self._end_hang(self._processes, diagnosis)
            self._decide(self.failure)
            return RunResult(state=WorkerState.FAILED)
        return RunResult(state=WorkerState.SUCCEEDED, return_values={w.global_rank: 0 for w in worker_group.workers})

    def _look_after_ranks(self) -> HangDiagnosis | None:
        if self.stopping or self._watchdog is None:
            return None
        try:
            return self._watchdog.look()
        except RuntimeError as error:
            raise self._rendezvous_handler.lost(error) from error

    def _construct_event(self, state: str, source: EventSource, *_: object, **__: object) -> Event:
        # torch's own asks DNS for this host's full name each time, which can stall a start; nobody reads its events.
        return Event(name=state, source=source)

    def _exit_barrier(self) -> None:
        self._rendezvous_handler.leave(LEAVE_SECONDS)

    # -- judgement ---------------------------------------------------------------------------------------------------

    def _decide(self, failure: PostMortem) -> None:
        """Set the number of restarts torch's agent believes it has left, which decides what it does next."""
        code = failure.termination.exit_code
        if self.stopping:
            self._remaining_restarts = 0
        elif failure.consequence and failure.formed:
            self._remaining_restarts += 1
        elif self._config.spec.restart.on_failure.to(classify(code)) == Reaction.FAIL:
            self._remaining_restarts = 0
        elif code == ExitCode.PREEMPTED:
            self._remaining_restarts += 1
        if not failure.consequence or code == ExitCode.HANG:
            worker = failure.termination.worker if code == ExitCode.HANG else self._index
            first = leave_cause(self._rendezvous_handler.keys, self._launched, failure.termination, worker)
            if first is not None and first.worker is not None:
                # The clocks of nodes cannot tell whose failure came first; the store can.
                ending = failure.termination.changed(worker=first.worker)
                self.failure = replace(failure, termination=ending)
        verb = "restarting" if self._remaining_restarts and not self.stopping else "giving up"
        say(f"worker {self._index}", f"{failure.termination.message}; {verb}")

    def _find_cause(self) -> PostMortem:
        """Return the earliest failure that is no mere consequence, waiting a moment for one to show."""
        deadline = time.monotonic() + CAUSE_SECONDS
        while True:
            failures = self._failures()
            causes = [failure for failure in failures if not failure.consequence]
            over = self._processes is None or not self._processes.running() or time.monotonic() > deadline
            if causes or over:
                return min(causes or failures, key=lambda failure: failure.seconds)
            time.sleep(MONITOR_SECONDS)

    def _failures(self) -> list[PostMortem]:
        ended = self._processes.ended() if self._processes is not None else {}
        size = self._config.spec.workers.processes_per_worker
        out_of_memory = count_oom_kills() > self._oom_kills
        return read_failures(
            self._scratch, ended, lambda number: self._placement(number, size).rank, out_of_memory=out_of_memory
        )

    def _end_hang(self, processes: RunningProcesses, diagnosis: HangDiagnosis) -> PostMortem:
        """Kill all processes, since those that hang react to no other signal, and return why."""
        processes.signal(signal.SIGKILL)
        if not processes.wait(STOP_SECONDS):
            # They sleep in the kernel and survive even that. New processes beside them would end up the same way.
            self._remaining_restarts = 0
        ending = Termination(**dict(diagnosis.cause))
        return PostMortem(ending, consequence=diagnosis.worker != self._index, formed=True, seconds=time.time())

    # -- names -------------------------------------------------------------------------------------------------------

    def _placement(self, local_rank: int, local_size: int) -> RankPlacement:
        members = self._rendezvous_handler.members
        return RankPlacement(
            worker=self._index,
            attempt=self._attempt,
            round=self._rendezvous_handler.round,
            local_rank=local_rank,
            local_size=local_size,
            rank=members.index(self._index) * local_size + local_rank,
            size=len(members) * local_size,
            absent=tuple(index for index in range(self._config.spec.workers.count) if index not in members),
        )

    def close(self) -> None:
        """Release what outlives the processes: worker 0's store."""
        self._rendezvous_handler.close()

    def cause_after_loss(self) -> PostMortem | None:
        """Return the processes' own failure after the store was lost, if they say one soon.

        Worker 0 takes the store with it wherever it goes. If it failed for a reason that all ranks share (a user error),
        or the whole job is being stopped, our own processes or our own SIGTERM will say so within moments. Anything else
        that our processes say now is a consequence of the loss, or of our stopping them.
        """
        deadline = time.monotonic() + CAUSE_SECONDS
        while time.monotonic() < deadline and not self.stopping:
            causes = [
                failure for failure in self._failures() if classify(failure.termination.exit_code) not in RETRYABLE
            ]
            if causes:
                return min(causes, key=lambda failure: failure.seconds)
            time.sleep(MONITOR_SECONDS)
        return None
