"""The outputs of a rank during training: reports, Prometheus metrics, experiment trackers, the log and heartbeats."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

from trainwright_worker.console import say
from trainwright_worker.distributed.placement import RankPlacement
from trainwright_worker.reporting.activity import Activity
from trainwright_worker.reporting.figures import Scale
from trainwright_worker.reporting.metrics import Metrics
from trainwright_worker.reporting.pulse import Pulse, Tolerance
from trainwright_worker.reporting.report import Reporter
from trainwright_worker.tracking.tracking import Tracking


@dataclass
class Telemetry:
    """The outputs of a rank during training.

    Attributes:
        placement: The placement of this rank; only rank 0 prints, reports and tracks.
        pulse: The heartbeat of this rank, which the agent reads.
        tolerance: The time that this rank may take without a step.
        reporter: Reports to the operator; on rank 0 only.
        metrics: Prometheus metrics, if configured.
        scale: Converts steps per second to other units.
        tracking: Experiment trackers; on rank 0 only, once training starts.
        notes: Warnings by topic.
    """

    placement: RankPlacement
    pulse: Pulse
    tolerance: Tolerance
    reporter: Reporter | None
    metrics: Metrics | None
    scale: Scale
    tracking: Tracking | None = None
    notes: dict[str, str] = field(default_factory=dict)

    def report(self, **changes: object) -> None:
        """Update fields of the report and pass them to the trackers; does nothing on ranks without a reporter."""
        if self.reporter is not None:
            self.reporter.update(**changes)
        if self.tracking is not None:
            self.tracking.record_report(changes)

    def charge(self, activity: Activity) -> AbstractContextManager[None]:
        """Account the time inside the context to an activity, for the job's goodput."""
        return nullcontext() if self.reporter is None else self.reporter.activities.during(activity)

    def warn(self, text: str, topic: str | None = None) -> None:
        """Add a warning to the log and the report.

        Args:
            text: The warning.
            topic: Topic of the warning, which replaces an earlier one on the same topic.
        """
        self.log(text)
        self.notes[topic or text] = text
        if self.reporter is not None:
            self.reporter.update(message="; ".join(self.notes.values())[:1024])

    def log(self, text: str) -> None:
        """Print a line, on rank 0 only."""
        if self.placement.leads:
            say(f"rank {self.placement.rank}", text)
