"""One training process, from its fork to its exit code."""

import signal
import sys
import uuid
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Final

# torch.optim imports this on first use, which takes seconds. If it is imported here, the agent does it once, and all processes
# that it forks later inherit it.
import torch._dynamo  # noqa: F401

from trainwright.api.exit_codes import ExitCode
from trainwright.api.worker import Cause, WorkerConfig
from trainwright_worker.agent.stacks import answer_with_stacks
from trainwright_worker.agent.termination import post_mortem_path, write_last_report, write_post_mortem
from trainwright_worker.console import say
from trainwright_worker.distributed.group import Group, choose_device, keep_freed_memory, set_determinism, set_threads
from trainwright_worker.distributed.placement import RankPlacement
from trainwright_worker.distributed.store import connect_store, round_store
from trainwright_worker.errors import InfrastructureError, UnreachableError, UserError
from trainwright_worker.own_code import add_code
from trainwright_worker.rank.prepare import prepare, take_best
from trainwright_worker.reporting.metrics import Metrics
from trainwright_worker.reporting.pulse import Pulse, forming_patience
from trainwright_worker.reporting.report import PulseSender, Reporter, first_report
from trainwright_worker.results.finish import finish
from trainwright_worker.tracking.tracker import Ending
from trainwright_worker.tracking.tracking import Tracking
from trainwright_worker.training.loop import fit
from trainwright_worker.training.run import Run

LAST_WRITE_SECONDS: Final = 4.0
"""How long a failing rank waits for a checkpoint that is being written. The agent waits a little longer for the rank."""


TRACKING_SECONDS: Final = 60.0
"""How long trackers may take to end their runs when the job is done."""


LAST_REPORT_OF_FAILURE_SECONDS: Final = 1.0
"""How long a failing rank tries to send its last report, since a restart must not wait for an endpoint that does not answer."""


class Rank:
    """A training process."""

    def __init__(
        self,
        config: WorkerConfig,
        placement: RankPlacement,
        host: str,
        scratch: Path,
        pulse: Pulse,
        cause: Cause | None,
    ) -> None:
        """Create a rank that has not started yet.

        Args:
            config: The worker's config.
            placement: The place of this rank among all ranks.
            host: Host under which this rank reaches the rendezvous store.
            scratch: Folder for the post-mortem or the last report.
            pulse: The memory in which it shows its agent that it makes progress.
            cause: Why the previous launch in this pod failed; None for the first launch.
        """
        self.config = config
        self.placement = placement
        self.host = host
        self.scratch = scratch
        self.pulse = pulse
        self.cause = cause
        self.group: Group | None = None
        self.run: Run | None = None

    def train(self) -> None:
        """Train, measure, predict, and write the results."""
        config, placement, pulse = self.config, self.placement, self.pulse
        reporter = None
        if placement.leads:
            launch = f"{placement.attempt}-{uuid.uuid4().hex[:12]}"
            report = first_report(config.uid, placement.attempt, launch, self.cause, placement.absent)
            reporter = Reporter(config.reports, report, pulse)
        metrics = (
            None if config.metrics_port is None else Metrics(config.metrics_port + placement.local_rank, placement.rank)
        )
        add_code(config.spec, config.data_root)
        set_threads(placement)
        keep_freed_memory()
        device = choose_device(placement)
        set_determinism(config.spec.training, device)
        pulse.expect(forming_patience(config.spec.health.hang, placement.size))
        self.group = Group(config, placement, self.host, device)
        sender = self._exchange_pulses(pulse, reporter)
        pulse.pause()
        self.run = prepare(config, placement, self.group, pulse, reporter, metrics, self.scratch / "data")
        if placement.leads:
            self.run.telemetry.tracking = Tracking(
                config, placement.attempt, self.run.progress.step, self.run.telemetry.warn
            )
        finish(self.run, self._fit(self.run))
        self._end_tracking(Ending.FINISHED, TRACKING_SECONDS)
        if sender is not None:
            sender.close()
        self.group.close()
        if reporter is not None:
            write_last_report(self.scratch, reporter.close())

    def _fit(self, run: Run) -> int:
        """Train, and return the step of the model's final weights."""

        def request_stop(_signal: int, _frame: FrameType | None) -> None:
            run.stop_requested = True

        # Before and after the loop there is nothing to save, so SIGTERM ends the process at once.
        signal.signal(signal.SIGTERM, request_stop)
        run.clock.begin(run.progress.step)
        fit(run)
        run.checkpoints.writer.wait()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        step = take_best(run)
        if run.learner.update.average is not None:
            run.learner.update.average.swap()  # From here on, the model has the averaged weights.
        return step

    def _exchange_pulses(self, pulse: Pulse, reporter: Reporter | None) -> PulseSender | None:
        """Send the pulses of the other ranks to rank 0, over connections of their own."""
        if self.group is None or self.group.size == 1:
            return None
        store = connect_store(self.host, self.config.rendezvous_port)
        mine = round_store(store, self.config.uid, self.placement.round)
        interval = 2.0 if self.config.reports is None else self.config.reports.interval_seconds
        sender = None if reporter is not None else PulseSender(mine, self.placement.rank, pulse, interval)
        self.group.barrier()
        if reporter is not None:
            reporter.watch(mine, self.group.size)
        return sender

    @property
    def _first_start(self) -> bool:
        """Whether this is the first launch of the job, and it has not begun to train."""
        return self.run is None and self.placement.attempt == 1 and self.cause is None

    def fail(self, error: BaseException) -> int:
        """Write a post-mortem and return the exit code."""
        if isinstance(error, UnreachableError) and self._first_start:
            # A retry would hide a wrong address, and no work can be lost yet.
            error = UserError(error.message, error.hint)
        self.pulse.pause()
        formed = self.group is not None
        path = post_mortem_path(self.scratch, self.placement.local_rank)
        termination = write_post_mortem(path, error, self.placement.rank, formed=formed)
        if termination.exit_code != ExitCode.PREEMPTED:
            say(f"rank {self.placement.rank}", f"failed: {termination.message}")
            if termination.traceback:
                sys.stderr.write(termination.traceback + "\n")
        if self.run is not None:
            # The state in a checkpoint that is being written is sound, and finishing it saves the work since the previous one.
            with suppress(InfrastructureError):
                self.run.checkpoints.writer.wait(LAST_WRITE_SECONDS)
            preempted = termination.exit_code == ExitCode.PREEMPTED
            self._end_tracking(Ending.PREEMPTED if preempted else Ending.FAILED, LAST_REPORT_OF_FAILURE_SECONDS)
            if self.run.telemetry.reporter is not None:
                self.run.telemetry.reporter.close(LAST_REPORT_OF_FAILURE_SECONDS)
        return termination.exit_code

    def _end_tracking(self, ending: Ending, seconds: float) -> None:
        if self.run is not None and self.run.telemetry.tracking is not None:
            results = None if self.run.telemetry.reporter is None else self.run.telemetry.reporter.report.results
            self.run.telemetry.tracking.close(ending, {} if results is None else results.paths(), seconds)


def run_rank(
    config: WorkerConfig, placement: RankPlacement, host: str, scratch: Path, pulse: Pulse, cause: Cause | None
) -> None:
    """Run one training process, in a process that the agent has forked, and end it with its exit code."""
    answer_with_stacks(scratch, placement.local_rank)
    rank = Rank(config, placement, host, scratch, pulse, cause)
    try:
        rank.train()
    except Exception as error:  # noqa: BLE001 - every error becomes a post-mortem and an exit code
        sys.exit(rank.fail(error))
