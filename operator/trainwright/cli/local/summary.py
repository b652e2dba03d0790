"""What a person reads at the end: what came of it and where it lies, or why it failed and what to do."""

from datetime import datetime
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from trainwright.api.figures import StepTime
from trainwright.api.status import Export, Failure, Metrics, Phase, Results, TrainingJobStatus, read_status
from trainwright.cli.local.display import clock, metric_texts
from trainwright.cli.local.folder import RunFolder, shorten

_LAST_LINES = 12


def show_summary(console: Console, job: dict[str, Any], folder: RunFolder) -> None:
    """Print the end of a run."""
    status = read_status(job.get("status"))
    failed = status.phase == Phase.FAILED
    mark, colour = ("✗", "red") if failed else ("✓", "green")
    seconds = _seconds(job, status)
    took = f"{'after' if failed else 'in'} {clock(seconds)}" if seconds is not None else ""
    head = Text.assemble(
        (f"{mark} ", f"bold {colour}"), (job["metadata"]["name"], "bold"), " ", (str(status.phase).lower(), colour)
    )
    console.print(Text.assemble(head, f" {took}".rstrip()))
    body = _failure(status.failure, folder) if failed and status.failure else _facts(status, folder)
    console.print(Padding(body, 1, expand=False))


def _facts(status: TrainingJobStatus, folder: RunFolder) -> RenderableType:
    metrics, progress = status.metrics, status.progress
    rows: list[tuple[str, str]] = []
    if metrics.evaluation is not None:
        rows.append((metrics.evaluation.split, "  ".join(metric_texts(metrics.evaluation))))
    if metrics.best is not None:
        rows.append(("best", "  ".join(metric_texts(metrics.best)) + f"  at step {metrics.best.step:,}"))
    rows.append(("trained", _trained(status)))
    if status.preflight is not None:
        rows.append(("preflight", status.preflight.message))
    if metrics.samples_per_second:
        rows.append(("throughput", _throughput(metrics)))
    if metrics.step_seconds is not None:
        rows.append(("step", _parts(metrics.step_seconds)))
    replayed = f" ({progress.replayed_steps:,} steps trained again)" if progress.replayed_steps else ""
    rows.append(("restarts", f"{status.restarts}{replayed}"))
    if status.results is not None:
        rows += _results(status.results)
    else:
        rows.append(("run", folder.shown))
    return _table(rows)


def _throughput(metrics: Metrics) -> str:
    tokens = f"  {metrics.tokens_per_second:,.0f} tokens/s" if metrics.tokens_per_second else ""
    mfu = f"  {metrics.mfu:.1%} of peak" if metrics.mfu else ""
    memory = f"  {metrics.peak_memory_bytes / 2**20:,.0f} MiB at the peak" if metrics.peak_memory_bytes else ""
    return f"{metrics.samples_per_second:,.0f} samples/s{tokens}{mfu}{memory}"


def _parts(step: StepTime) -> str:
    """Return where a step's time goes: `12.3 ms: forward 40 %, backward 52 %`."""
    parts = {name: getattr(step, name) for name in StepTime.model_fields if name != "total"}
    shares = [f"{name} {100 * seconds / step.total:.0f} %" for name, seconds in parts.items() if seconds and step.total]
    return f"{1000 * step.total:.3g} ms: {', '.join(shares)}"


def _results(results: Results) -> list[tuple[str, str]]:
    measured = {export.format: export for export in results.exports if export.metrics}
    rows = [
        (name, _export(measured[name]) if name in measured else shorten(path)) for name, path in results.paths().items()
    ]
    rows += [("sample", f"{sample.prompt}{sample.text}".replace("\n", " ")) for sample in results.samples]
    return rows + [("problem", problem) for problem in results.problems]


def _export(export: Export) -> str:
    measured = [f"{name} {value:.4g}" for name, value in export.metrics.items() if name != "samples"]
    return "  ".join([shorten(export.path), f"{export.bytes / 1e6:,.3g} MB", *measured])


def _trained(status: TrainingJobStatus) -> str:
    progress = status.progress
    epochs = f", {progress.epoch:,} epochs" if progress.total_epochs else ""
    return f"{progress.step:,} steps{epochs}, {progress.samples:,} samples"


def _failure(failure: Failure, folder: RunFolder) -> RenderableType:
    where = [f"worker {failure.worker}" if failure.worker is not None else ""]
    where += [f"rank {failure.rank}" if failure.rank is not None else ""]
    where += [f"exit code {failure.exit_code}" if failure.exit_code is not None else ""]
    rows = [("cause", str(failure.category)), ("message", failure.message)]
    rows += [("where", ", ".join(part for part in where if part))]
    exception = failure.exception or ""
    # Our own errors say the same in both; others' say it in the exception alone.
    said = failure.message.endswith(exception.partition(": ")[2])
    rows += [("exception", "" if said else exception), ("hint", failure.hint or "")]
    rows += [("log", shorten(folder.log(failure.pod)) if failure.pod else shorten(folder.path / "logs"))]
    parts: list[RenderableType] = [_table([(name, text) for name, text in rows if text])]
    last_words = failure.traceback or _log_tail(failure, folder)
    if last_words:
        tail = "\n".join(last_words.rstrip().splitlines()[-_LAST_LINES:])
        parts += [Text(""), Text(tail, "dim")]
    return Group(*parts)


def _log_tail(failure: Failure, folder: RunFolder) -> str:
    """Return the end of the log of a worker that could not say itself why it failed."""
    if failure.exception is not None or failure.pod is None or not folder.log(failure.pod).exists():
        return ""
    return folder.log(failure.pod).read_text(encoding="utf-8", errors="replace")


def _table(rows: list[tuple[str, str]]) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    # Paths are copied from here; a folded one could not be.
    table.add_column(overflow="fold")
    for name, text in rows:
        table.add_row(name, Text(text, "bold" if name == "hint" else ""))
    return table


def _seconds(job: dict[str, Any], status: TrainingJobStatus) -> float | None:
    if status.finished_at is None:
        return None
    begun = status.started_at or datetime.fromisoformat(job["metadata"]["creationTimestamp"])
    return (status.finished_at - begun).total_seconds()
