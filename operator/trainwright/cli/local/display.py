"""What a person sees while a job trains: a few calm lines that change in place, or plain lines where nothing can."""

import time
from datetime import UTC, datetime
from typing import Protocol, Self

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from trainwright.api.status import Evaluation, Phase, TrainingJobStatus

_PLAIN_SECONDS = 5.0
_COLOURS = {
    Phase.RUNNING: "green",
    Phase.SUCCEEDED: "green",
    Phase.FAILED: "red",
    Phase.RESTARTING: "yellow",
    Phase.SUSPENDED: "yellow",
}
_METRICS = ("accuracy", "mae", "r2", "perplexity", "character-error-rate", "loss")


class Display(Protocol):
    """Shows a run while it lasts."""

    def __enter__(self) -> Self:
        """Begin."""

    def __exit__(self, *exception: object) -> None:
        """End; what was shown last stays."""

    def update(self, status: TrainingJobStatus) -> None:
        """Show a new status."""

    def note(self, text: str) -> None:
        """Say something once."""


def make_display(console: Console, name: str, *, quiet: bool) -> Display:
    """Return the display that suits the terminal, or the lack of one."""
    if quiet:
        return _Quiet()
    return _Terminal(console, name) if console.is_terminal else _Lines(console, name)


class _Quiet:
    """Shows nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        pass

    def update(self, status: TrainingJobStatus) -> None:
        pass

    def note(self, text: str) -> None:
        pass


class _Lines:
    """One line whenever something happened, and every few seconds of training."""

    def __init__(self, console: Console, name: str) -> None:
        self._console = console
        self._name = name
        self._said: tuple[object, ...] = ()
        self._said_at = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        pass

    def update(self, status: TrainingJobStatus) -> None:
        # While it trains the message changes with every step; then time decides, not the message.
        news = (status.phase, status.reason, "" if status.phase == Phase.RUNNING else status.message, status.restarts)
        now = time.monotonic()
        if status.phase is None or (news == self._said and now - self._said_at < _PLAIN_SECONDS):
            return
        if news == self._said and status.phase != Phase.RUNNING:
            return
        self._said, self._said_at = news, now
        facts = " · ".join(facts_of(status)) if status.phase == Phase.RUNNING else ""
        line = f"{self._name}  {status.phase}  {facts or status.message}"
        self._console.print(line.rstrip(), soft_wrap=True, markup=False)

    def note(self, text: str) -> None:
        self._console.print(text, soft_wrap=True, markup=False)


class _Terminal:
    """Three lines that change in place."""

    def __init__(self, console: Console, name: str) -> None:
        self._console = console
        self._name = name
        self._status = TrainingJobStatus()
        self._note = ""
        self._spinner = Spinner("dots")
        self._live = Live(self, console=console, refresh_per_second=8, transient=True)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._live.stop()

    def update(self, status: TrainingJobStatus) -> None:
        self._status = status

    def note(self, text: str) -> None:
        self._note = text

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        status = self._status
        phase = status.phase or Phase.PENDING
        head = Table.grid(padding=(0, 1))
        title = Text.assemble((self._name, "bold"), "  ", (str(phase), _COLOURS.get(phase, "cyan")), " ")
        head.add_row(self._spinner, title, Text(_said(status), "dim", overflow="ellipsis", no_wrap=True))
        lines: list[RenderableType] = [head, _bar(status, options.max_width)]
        facts = facts_of(status)
        lines.append(Text("  " + "  ·  ".join(facts), no_wrap=True, overflow="ellipsis"))
        if self._note:
            lines.append(Text("  " + self._note, "yellow", no_wrap=True, overflow="ellipsis"))
        yield Group(*lines)


def _said(status: TrainingJobStatus) -> str:
    """Return the message, unless the bar says the same: where training stands."""
    usual = status.phase == Phase.RUNNING and status.message.startswith("training:") and not status.progress.stale
    return "" if usual else status.message


def _bar(status: TrainingJobStatus, width: int) -> Table:
    progress = status.progress
    known = progress.total_steps is not None
    bar = ProgressBar(
        total=float(progress.total_steps) if progress.total_steps else None,
        completed=float(progress.step),
        pulse=not known,
        width=max(10, min(46, width - 44)),
    )
    row = Table.grid(padding=(0, 2))
    cells: list[RenderableType] = [Text(""), bar]
    if known:
        cells += [Text(f"{progress.percent:3d}%", "bold"), Text(f"step {progress.step:,}/{progress.total_steps:,}")]
        remaining = remaining_seconds(status)
        if remaining is not None:
            cells.append(Text(f"{clock(remaining)} left", "cyan"))
    row.add_row(*cells)
    return row


def facts_of(status: TrainingJobStatus) -> list[str]:
    """Return what is worth knowing of a running job, each in a few words."""
    progress, metrics = status.progress, status.metrics
    facts = []
    if progress.total_epochs:
        facts.append(f"epoch {min(progress.epoch + 1, progress.total_epochs)}/{progress.total_epochs}")
    elif progress.total_steps:
        facts.append(f"step {progress.step}/{progress.total_steps}")
    if metrics.loss is not None:
        facts.append(f"loss {metrics.loss:.4f}")
    facts += metric_texts(metrics.evaluation)[:1]
    if metrics.tokens_per_second:
        facts.append(f"{metrics.tokens_per_second:,.0f} tokens/s")
    elif metrics.samples_per_second:
        facts.append(f"{metrics.samples_per_second:,.0f} samples/s")
    if status.workers.desired > 1:
        facts.append(f"{status.workers.ready}/{status.workers.desired} workers")
    if status.restarts:
        facts.append(f"{status.restarts} restart{'s' if status.restarts > 1 else ''}")
    return facts


def metric_texts(evaluation: Evaluation | None) -> list[str]:
    """Return the metrics of an evaluation, the telling one first: `accuracy 0.971`, `loss 0.1043`."""
    if evaluation is None:
        return []
    names = [name for name in _METRICS if name in evaluation.metrics]
    names += [name for name in evaluation.metrics if name not in _METRICS]
    return [f"{name} {evaluation.metrics[name]:.4f}" for name in names]


def remaining_seconds(status: TrainingJobStatus) -> int | None:
    """Return the seconds from now to the expected end."""
    eta = status.progress.eta
    if eta is None or status.phase != Phase.RUNNING:
        return None
    return max(0, round((eta - datetime.now(UTC)).total_seconds()))


def clock(seconds: float) -> str:
    """Return a duration as m:ss, or h:mm:ss."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
