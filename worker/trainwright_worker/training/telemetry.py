"""What a rank tells while it trains: the operator, Prometheus, experiment trackers, the log, and its own agent."""

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
    """Whom a rank tells.

    Attributes:
        placement: Where this rank stands; rank 0 alone prints, reports and tracks.
        pulse: This rank's sign of life, for the agent.
        tolerance: How long it may go without a step.
        reporter: What tells the operator; on rank 0 only.
        metrics: What tells Prometheus, if configured.
        scale: What turns steps per second into other figures.
        tracking: What records the course of training; on rank 0 only, once training begins.
        notes: What a person should know although training goes on, by topic.
    """

    placement: RankPlacement
    pulse: Pulse
    tolerance: Tolerance
    reporter: Reporter | None
    metrics: Metrics | None
    scale: Scale
    tracking: Tracking | None = None
    notes: dict[str, str] = field(default_factory=dict)

    def tell(self, **changes: object) -> None:
        """Change fields of the report, and record what they measure; does nothing on ranks that do not report."""
        if self.reporter is not None:
            self.reporter.update(**changes)
        if self.tracking is not None:
            self.tracking.hear(changes)

    def charge(self, activity: Activity) -> AbstractContextManager[None]:
        """Charge the time inside to an activity, in the job's goodput."""
        return nullcontext() if self.reporter is None else self.reporter.activities.during(activity)

    def warn(self, text: str, topic: str | None = None) -> None:
        """Say something that a person should know although training goes on: in the log and in the report.

        Args:
            text: What to say.
            topic: Replaces what was said before on the same topic.
        """
        self.log(text)
        self.notes[topic or text] = text
        if self.reporter is not None:
            self.reporter.update(message="; ".join(self.notes.values())[:1024])

    def log(self, text: str) -> None:
        """Print a line, on rank 0 only."""
        if self.placement.leads:
            say(f"rank {self.placement.rank}", text)
