"""The summary at the end of a run: the results and their paths, or the cause of the failure and its remedy."""

import shlex
from datetime import datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from trainwright.api.amounts import bytes_text, clock_text, seconds_text
from trainwright.api.figures import Evaluation, StepTime
from trainwright.api.spec.paths import is_uri
from trainwright.api.status import (
    Checkpoint,
    Export,
    Failure,
    Metrics,
    Phase,
    Results,
    TrainingJobStatus,
    read_status,
)
from trainwright.cli.local.folder import RunFolder, shorten
from trainwright.cli.local.memory import memory_excess
from trainwright.cli.local.outcome import doubts, equation_text, read_summary
from trainwright.cli.local.words import cause_of, figure, metric_texts

Row = tuple[str, str]
"""A name and a text."""

_LAST_LINES = 12


def show_summary(console: Console, job: dict[str, Any], folder: RunFolder) -> None:
    """Print the end of a run."""
    status = read_status(job.get("status"))
    failed = status.phase == Phase.FAILED
    summary = read_summary(status.results.folder) if status.results is not None else {}
    doubtful = doubts(summary)
    mark, colour = ("✗", "red") if failed else ("!", "yellow") if doubtful else ("✓", "green")
    seconds = _seconds(job, status)
    took = f"{'after' if failed else 'in'} {clock_text(seconds)}" if seconds is not None else ""
    head = Text.assemble(
        (f"{mark} ", f"bold {colour}"), (job["metadata"]["name"], "bold"), " ", (str(status.phase).lower(), colour)
    )
    console.print(Text.assemble(head, f" {took}".rstrip()))
    console.print()
    if failed and status.failure:
        _print_rows(console, _failure(status.failure, folder))
        _print_last_words(console, status.failure, folder)
    else:
        rows = [("doubt", doubt) for doubt in doubtful] + _facts(status, folder)
        equation, memory = equation_text(summary), memory_excess(job, status)
        rows += [("equation", equation)] if equation else []
        rows += [("memory", memory)] if memory else []
        rows += _tensorboard(status)
        _print_rows(console, rows)
    console.print()


def _facts(status: TrainingJobStatus, folder: RunFolder) -> list[Row]:
    metrics = status.metrics
    rows: list[Row] = []
    if metrics.evaluation is not None:
        rows.append((metrics.evaluation.split, "  ".join(metric_texts(metrics.evaluation))))
    if metrics.best is not None:
        rows.append(("best", _best(metrics.best, status.checkpoints)))
    rows.append(("trained", _trained(status)))
    if status.preflight is not None:
        rows.append(("preflight", status.preflight.message))
    if metrics.samples_per_second:
        rows.append(("throughput", _throughput(metrics)))
    if metrics.step_seconds is not None:
        rows.append(("one step", _parts(metrics.step_seconds)))
    rows.append(("restarts", _restarts(status)))
    if status.results is not None:
        rows += _results(status.results)
    else:
        rows.append(("run", folder.shown))
    return rows


def _tensorboard(status: TrainingJobStatus) -> list[Row]:
    """Return the command that shows the TensorBoard records of the run, if there are any on this machine."""
    if status.results is None or is_uri(status.results.folder):
        return []
    records = Path(status.results.folder).parent / "tensorboard"
    return [("tensorboard", f"tensorboard --logdir {shlex.quote(shorten(records))}")] if records.is_dir() else []


def _best(best: Evaluation, checkpoints: list[Checkpoint]) -> str:
    """Return the best evaluation, and whether its checkpoint was kept."""
    kept = any(checkpoint.step == best.step for checkpoint in checkpoints)
    lost = "" if kept else "  (not kept: checkpoint.keepBest)"
    return f"{'  '.join(metric_texts(best))}  on {best.split} at step {best.step:,}{lost}"


def _restarts(status: TrainingJobStatus) -> str:
    """Return the number of restarts, the steps they repeated, and the cause of the newest."""
    replayed = status.progress.replayed_steps
    again = f" ({replayed:,} steps trained again)" if replayed else ""
    cause = f": {cause_of(status.failure)}" if status.restarts and status.failure is not None else ""
    return f"{status.restarts}{again}{', the newest' if cause and status.restarts > 1 else ''}{cause}"


def _throughput(metrics: Metrics) -> str:
    tokens = f"  {metrics.tokens_per_second:,.0f} tokens/s" if metrics.tokens_per_second else ""
    mfu = f"  {metrics.mfu:.1%} of peak" if metrics.mfu else ""
    memory = f"  {bytes_text(metrics.peak_memory_bytes)} at the peak" if metrics.peak_memory_bytes else ""
    return f"{metrics.samples_per_second:,.0f} samples/s{tokens}{mfu}{memory}"


def _parts(step: StepTime) -> str:
    """Return how the time of one step is divided: `12.3 ms, the last one timed: forward 40 %, backward 52 %`."""
    parts = {name: getattr(step, name) for name in StepTime.model_fields if name != "total"}
    shares = [f"{name} {100 * seconds / step.total:.0f} %" for name, seconds in parts.items() if seconds and step.total]
    return f"{seconds_text(step.total)}, the last one timed: {', '.join(shares)}"


def _results(results: Results) -> list[Row]:
    measured = {export.format: export for export in results.exports if export.metrics}
    rows = [
        (name, _export(measured[name]) if name in measured else shorten(path)) for name, path in results.paths().items()
    ]
    rows += [("sample", f"{sample.prompt}{sample.text}".replace("\n", " ")) for sample in results.samples]
    return rows + [("problem", problem) for problem in results.problems]


def _export(export: Export) -> str:
    measured = [f"{name} {figure(value)}" for name, value in export.metrics.items() if name != "samples"]
    return "  ".join([shorten(export.path), f"{bytes_text(export.bytes)}", *measured])


def _trained(status: TrainingJobStatus) -> str:
    progress = status.progress
    epochs = f", {progress.epoch:,} epochs" if progress.total_epochs else ""
    return f"{progress.step:,} steps{epochs}, {progress.samples:,} samples"


def _failure(failure: Failure, folder: RunFolder) -> list[Row]:
    where = [f"worker {failure.worker}" if failure.worker is not None else ""]
    where += [f"rank {failure.rank}" if failure.rank is not None else ""]
    where += [f"exit code {failure.exit_code}" if failure.exit_code is not None else ""]
    rows = [("cause", str(failure.category)), ("message", failure.message)]
    rows += [("where", ", ".join(part for part in where if part))]
    exception = failure.exception or ""
    # The message of our own errors repeats the exception.
    said = failure.message.endswith(exception.partition(": ")[2])
    rows += [("exception", "" if said else exception), ("hint", failure.hint or "")]
    rows += [("log", shorten(folder.log(failure.pod)) if failure.pod else shorten(folder.path / "logs"))]
    return [(name, text) for name, text in rows if text]


def _print_last_words(console: Console, failure: Failure, folder: RunFolder) -> None:
    last_words = failure.traceback or _log_tail(failure, folder)
    if last_words:
        console.print()
        for line in last_words.rstrip().splitlines()[-_LAST_LINES:]:
            console.print(Text(f" {line}", "dim"), soft_wrap=True)


def _log_tail(failure: Failure, folder: RunFolder) -> str:
    """Return the log of a worker that ended without saying why it failed."""
    if failure.exception is not None or failure.pod is None or not folder.log(failure.pod).exists():
        return ""
    return folder.log(failure.pod).read_text(encoding="utf-8", errors="replace")


def _print_rows(console: Console, rows: list[Row]) -> None:
    """Print names and texts in two columns.

    Users copy paths from here. A text with a word longer than its column is therefore not wrapped by us but by the terminal, which
    leaves no line breaks in a selection. Output to a file is not wrapped or padded.
    """
    names = max(len(name) for name, _ in rows)
    for name, text in rows:
        style = "bold" if name == "hint" else ""
        room = console.width - names - 3
        if console.is_terminal and max(len(word) for word in text.split()) <= room < len(text):
            row = Table.grid(padding=(0, 2))
            row.add_column(style="dim", min_width=names)
            row.add_row(name, Text(text, style))
            console.print(Padding(row, (0, 0, 0, 1), expand=False))
        else:
            console.print(Text.assemble(" ", (f"{name:<{names}}", "dim"), "  ", (text, style)), soft_wrap=True)


def _seconds(job: dict[str, Any], status: TrainingJobStatus) -> float | None:
    if status.finished_at is None:
        return None
    begun = status.started_at or datetime.fromisoformat(job["metadata"]["creationTimestamp"])
    return (status.finished_at - begun).total_seconds()
