"""The result of a chaos run, as lines of Markdown."""

from statistics import median

from fleet import Fleet
from history import Fault, History
from mayhem import ACTS

_HEAD = (
    "| fault | times | seconds lost (all jobs) | median per fault | restarts | steps replayed |",
    "|---|---|---|---|---|---|",
)


def tally(history: History, fleet: Fleet, seed: int, seconds: float) -> list[str]:
    """Return the table of faults, and below it what must be zero: broken rules, lost jobs, unexplained restarts.

    Args:
        history: What the observer saw.
        fleet: The jobs and how they ended.
        seed: The seed of the schedule.
        seconds: How long the run took, including the end of the last jobs.
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
        f"In {seconds / 60:.1f} minutes (seed {seed}) {fleet.finished} jobs ended with the same weights as undisturbed runs, "
        f"bit for bit; {len(fleet.lost)} jobs were lost. Without a fault, {nothing.seconds} s and {nothing.restarts} restarts "
        f"were lost. {len(history.violations)} rules were broken. The longest time without a report from a running job was "
        f"{history.longest_silence:.0f} s."
    )
