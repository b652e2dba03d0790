"""The progress display: a few lines updated in place on a terminal, or plain lines otherwise."""

import time
from datetime import UTC, datetime
from typing import Protocol, Self

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.live import Live
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from trainwright.api.amounts import clock_text
from trainwright.api.status import Phase, TrainingJobStatus
from trainwright.cli.local.words import Restarts, figure, main_metric

_PLAIN_SECONDS = 5.0
_COLOURS = {
    Phase.RUNNING: "green",
    Phase.SUCCEEDED: "green",
    Phase.FAILED: "red",
    Phase.RESTARTING: "yellow",
    Phase.SUSPENDED: "yellow",
}
_BAR = (6, 46)
_SEPARATOR = "  ·  "
_NARROW = 40
"""With fewer columns left beside the title, a message gets a line of its own."""


class Display(Protocol):
    """Shows a run while it lasts."""

    def __enter__(self) -> Self:
        """Start the display."""

    def __exit__(self, *exception: object) -> None:
        """End the display; its last lines stay."""

    def update(self, status: TrainingJobStatus) -> None:
        """Show a new status."""

    def note(self, text: str) -> None:
        """Show a text once."""


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
    """Prints a line when something has changed; during training, at most one in a few seconds."""

    def __init__(self, console: Console, name: str) -> None:
        self._console = console
        self._name = name
        self._said: tuple[object, ...] = ()
        self._said_at = 0.0
        self._restarts = Restarts()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        pass

    def update(self, status: TrainingJobStatus) -> None:
        restart = self._restarts.news(status)
        if restart is not None:
            self.note(_stamped(restart))
        running = status.phase == Phase.RUNNING
        doing = _doing(status)
        facts = " · ".join(_standing(status)) if running else ""
        news = (doing, facts or status.message, status.restarts)
        now = time.monotonic()
        # During training every report brings changes, so a minimum interval applies.
        too_soon = running and self._said[:1] == news[:1] and now - self._said_at < _PLAIN_SECONDS
        if status.phase is None or news == self._said or too_soon:
            return
        self._said, self._said_at = news, now
        line = f"{self._name}  {doing}  {facts or status.message}"
        self._console.print(line.rstrip(), soft_wrap=True, markup=False)

    def note(self, text: str) -> None:
        self._console.print(text, soft_wrap=True, markup=False)


class _Terminal:
    """Three lines that change in place."""

    def __init__(self, console: Console, name: str) -> None:
        self._console = console
        self._name = name
        self._status = TrainingJobStatus()
        self._since = time.monotonic()
        self._note = ""
        self._restarts = Restarts()
        self._spinner = Spinner("dots")
        self._live = Live(self, console=console, refresh_per_second=8, transient=True)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._live.stop()

    def update(self, status: TrainingJobStatus) -> None:
        if status.phase != self._status.phase:
            self._since = time.monotonic()
        self._status = status
        restart = self._restarts.news(status)
        if restart is not None:
            # Printed above the live lines, where it stays.
            self._console.print(Text(_stamped(restart), "yellow"))

    def note(self, text: str) -> None:
        self._note = text

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        status, width = self._status, options.max_width
        phase = status.phase or Phase.PENDING
        waited = "" if phase == Phase.RUNNING else f" {clock_text(time.monotonic() - self._since)}"
        title = Text.assemble((self._name, "bold"), "  ", (f"{phase}{waited}", _COLOURS.get(phase, "cyan")), " ")
        said = _said(status)
        beside = width - title.cell_len >= _NARROW
        head = Table.grid(padding=(0, 1))
        head.add_row(self._spinner, title, Text(said if beside else "", "dim", overflow="ellipsis", no_wrap=True))
        lines: list[RenderableType] = [head]
        if said and not beside:
            lines.append(Padding(Text(said, "dim"), (0, 0, 0, 2)))
        lines.append(_bar(status, width))
        lines += [Text(f"  {line}", no_wrap=True, overflow="ellipsis") for line in _flow(facts_of(status), width - 2)]
        if self._note:
            lines.append(Padding(Text(self._note, "yellow"), (0, 0, 0, 2)))
        yield Group(*lines)


def _stamped(text: str) -> str:
    return f"{datetime.now(UTC).astimezone():%H:%M:%S} {text}"


def _said(status: TrainingJobStatus) -> str:
    """Return the message, or nothing if the progress bar shows the same."""
    usual = status.phase == Phase.RUNNING and status.message.startswith("training:") and not status.progress.stale
    return "" if usual else status.message


def _doing(status: TrainingJobStatus) -> str:
    """Return the phase in words. For a running job, return what it does: training, evaluating, writing predictions."""
    if status.phase == Phase.RUNNING:
        return status.message.partition(":")[0] or "training"
    return str(status.phase).lower()


def _standing(status: TrainingJobStatus) -> list[str]:
    """Return the progress of a running job, and the other facts, for a plain line without a progress bar."""
    progress, facts = status.progress, facts_of(status)
    if progress.total_steps is None:
        return facts
    step = f"step {progress.step:,}/{progress.total_steps:,}"
    remaining = remaining_seconds(status)
    left = [] if remaining is None else [f"{clock_text(remaining)} left"]
    return [f"{step} ({progress.percent} %)", *left, *(fact for fact in facts if fact != step)]


def _bar(status: TrainingJobStatus, width: int) -> Table:
    progress = status.progress
    known = progress.total_steps is not None
    cells: list[Text] = []
    if known:
        remaining = remaining_seconds(status)
        cells = [Text(f"{progress.percent:3d}%", "bold"), Text(f"step {progress.step:,}/{progress.total_steps:,}")]
        cells += [] if remaining is None else [Text(f"{clock_text(remaining)} left", "cyan")]
    least, most = _BAR
    beside = [cell.cell_len + 2 for cell in cells]
    while least + 4 + sum(beside) > width and len(cells) > 1:
        # The percentage is dropped first, since the step says about the same.
        cells.pop(0)
        beside.pop(0)
    bar = ProgressBar(
        total=float(progress.total_steps) if progress.total_steps else None,
        completed=float(progress.step),
        pulse=not known,
        width=max(least, min(most, width - 4 - sum(beside))),
    )
    row = Table.grid(padding=(0, 2))
    row.add_row(Text(""), bar, *cells)
    return row


def _flow(facts: list[str], width: int) -> list[str]:
    """Return the facts on as many lines as needed, so that none is cut off on a narrow terminal."""
    lines: list[str] = []
    for fact in facts:
        longer = f"{lines[-1]}{_SEPARATOR}{fact}" if lines else fact
        if lines and len(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(fact)
    return lines


def facts_of(status: TrainingJobStatus) -> list[str]:
    """Return the main facts about a running job, each in a few words."""
    progress, metrics = status.progress, status.metrics
    facts = []
    if status.restarts:
        facts.append(f"{status.restarts} restart{'s' if status.restarts > 1 else ''}")
    if progress.total_epochs:
        facts.append(f"epoch {min(progress.epoch + 1, progress.total_epochs)}/{progress.total_epochs}")
    elif progress.total_steps:
        facts.append(f"step {progress.step:,}/{progress.total_steps:,}")
    if metrics.loss is not None:
        facts.append(f"loss {figure(metrics.loss)}")
    facts += main_metric(metrics.evaluation)
    if metrics.tokens_per_second:
        facts.append(f"{metrics.tokens_per_second:,.0f} tokens/s")
    elif metrics.samples_per_second:
        facts.append(f"{metrics.samples_per_second:,.0f} samples/s")
    if status.workers.desired > 1:
        facts.append(f"{status.workers.ready}/{status.workers.desired} workers")
    return facts


def remaining_seconds(status: TrainingJobStatus) -> int | None:
    """Return the seconds from now to the expected end."""
    eta = status.progress.eta
    if eta is None or status.phase != Phase.RUNNING:
        return None
    return max(0, round((eta - datetime.now(UTC)).total_seconds()))
