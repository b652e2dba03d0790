"""What a chaos run came to, as lines of Markdown."""

from statistics import median

from fleet import Fleet
from history import Fault, History
from mayhem import ACTS

_HEAD = (
    "| fault | times | seconds lost, all jobs | median of one | restarts | steps replayed |",
    "|---|---|---|---|---|---|",
)


def tally(history: History, fleet: Fleet, seed: int, seconds: float) -> list[str]:
    """Return the table of faults, and under it what must be nothing.

    Args:
        history: What was seen.
        fleet: What became of the jobs.
        seed: Of the schedule.
        seconds: How long it took, the end of the last jobs included.
    """
    rows = [_row(kind, [fault for fault in history.faults if fault.kind == kind]) for kind in ACTS]
    return [
        *_HEAD,
        *rows,
        _row("**all**", history.faults),
        "",
        _verdict(history, fleet, seed, seconds),
        *(f"- {what}" for what in (*history.violations, *fleet.lost, *history.surprises)),
    ]


def _row(kind: str, faults: list[Fault]) -> str:
    seconds = [fault.seconds for fault in faults]
    middle = f"{median(seconds):.0f}" if seconds else ""
    restarts, replayed = sum(fault.restarts for fault in faults), sum(fault.replayed for fault in faults)
    return f"| {kind} | {len(faults)} | {sum(seconds)} | {middle} | {restarts} | {replayed} |"


def _verdict(history: History, fleet: Fleet, seed: int, seconds: float) -> str:
    nothing = history.unexplained
    return (
        f"In {seconds / 60:.1f} minutes (seed {seed}) {fleet.finished} jobs ended with the same weights, bit for bit, as "
        f"undisturbed ones; lost: {len(fleet.lost)}. Lost without a fault: {nothing.seconds} s, {nothing.restarts} restarts. "
        f"Rules broken: {len(history.violations)}, two pods of a worker at once and steps that fell unexplained among them. "
        f"Longest silence of a running job: {history.longest_silence:.0f} s."
    )
