"""How a worker ends: post-mortems of failed ranks, and the termination message that outlives the pod."""

import json
import os
import signal
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from trainwright.api.exit_codes import SIGNAL_BASE, ExitCode, classify
from trainwright.api.names import TERMINATION_MESSAGE_BYTES
from trainwright.api.worker import Termination, WorkerReport
from trainwright_worker.errors import MEMORY_HINT, PeersLostError, WorkerError, explain

MESSAGE: Final = 1024
HINT: Final = 512
EXCEPTION: Final = 512
TRACEBACK: Final = 2048
LAST_REPORT: Final = "report.json"
_OOM_EVENTS: Final = Path("/sys/fs/cgroup/memory.events")


@dataclass(frozen=True)
class PostMortem:
    """How a rank failed.

    Attributes:
        termination: How it ended.
        consequence: Whether it only failed because another rank was gone.
        formed: Whether it had formed a process group with its peers; losing them counts as a failure otherwise.
        seconds: When it failed, in seconds since the epoch on this machine's clock.
    """

    termination: Termination
    consequence: bool
    formed: bool
    seconds: float


def describe(error: BaseException, rank: int | None = None) -> Termination:
    """Return how a rank ended by an exception, with the last lines of its traceback unless the message says it all."""
    known = explain(error)
    explained = isinstance(error, WorkerError) or isinstance(known, PeersLostError)
    lines = "".join(traceback.format_exception(error))[-TRACEBACK:]
    return Termination(
        exit_code=known.exit_code,
        category=classify(known.exit_code),
        message=known.message[:MESSAGE],
        hint=known.hint[:HINT] if known.hint else None,
        rank=rank,
        exception=f"{type(error).__name__}: {error}"[:EXCEPTION],
        traceback=None if explained else lines,
    )


def write_post_mortem(path: Path, error: BaseException, rank: int, *, formed: bool) -> Termination:
    """Leave the post-mortem of this rank where the agent reads it."""
    termination = describe(error, rank)
    consequence = isinstance(explain(error), PeersLostError)
    content = {"termination": termination.to_wire(), "consequence": consequence, "formed": formed}
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(content))
    temporary.replace(path)
    return termination


def post_mortem_path(scratch: Path, local_rank: int) -> Path:
    """Return where a rank leaves its post-mortem."""
    return scratch / f"rank-{local_rank}.json"


def write_last_report(scratch: Path, report: WorkerReport) -> None:
    """Leave rank 0's last report for the agent."""
    (scratch / LAST_REPORT).write_text(json.dumps(report.to_wire()))


def read_last_report(scratch: Path) -> WorkerReport | None:
    """Return rank 0's last report; None on workers that rank 0 does not live on."""
    try:
        return WorkerReport.model_validate_json((scratch / LAST_REPORT).read_text())
    except (OSError, ValueError):
        return None


def read_post_mortem(path: Path) -> PostMortem | None:
    """Return what a rank left, or None if it was killed before it could."""
    try:
        raw = json.loads(path.read_text())
        termination = Termination.model_validate_json(json.dumps(raw["termination"]))
        return PostMortem(termination, raw["consequence"], raw["formed"], path.stat().st_mtime)
    except (OSError, ValueError, KeyError):
        return None


def read_failures(
    scratch: Path, ended: Mapping[int, int], rank_of: Callable[[int], int], *, out_of_memory: bool
) -> list[PostMortem]:
    """Return the post-mortems of the ranks that failed, those that could not write their own included.

    Args:
        scratch: Where they left them.
        ended: Exit code by local rank of those that have ended; 128 + n for an end by signal n.
        rank_of: Returns the rank of a local rank.
        out_of_memory: Whether the kernel has killed a process for memory.
    """
    return [
        read_post_mortem(post_mortem_path(scratch, number))
        or _killed(rank_of(number), code, out_of_memory=out_of_memory)
        for number, code in ended.items()
        if code
    ]


def _killed(rank: int, code: int, *, out_of_memory: bool) -> PostMortem:
    message, hint = f"rank {rank} ended with exit code {code}", None
    if code > SIGNAL_BASE:
        message = f"rank {rank} was ended by {signal.Signals(code - SIGNAL_BASE).name}"
    if code == SIGNAL_BASE + signal.SIGKILL and out_of_memory:
        code, hint = ExitCode.OUT_OF_MEMORY, MEMORY_HINT
        message = f"rank {rank} was killed because the worker ran out of memory"
    ending = Termination(exit_code=code, category=classify(code), message=message, hint=hint, rank=rank)
    return PostMortem(ending, consequence=False, formed=False, seconds=time.time())


def count_oom_kills() -> int:
    """Return how many processes of this container the kernel has killed for memory; 0 where it does not say."""
    try:
        lines = _OOM_EVENTS.read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), 0)


def fit(termination: Termination) -> bytes:
    """Return the JSON of a termination in at most 4096 bytes; what matters least is dropped first."""
    candidates = [termination]
    if termination.report is not None:
        candidates += [_with_report(termination, report) for report in _trimmed(termination.report)]
        candidates.append(termination.changed(report=None))
    for length in (1024, 512, 0):
        text = (termination.traceback or "")[-length:] if length else None
        candidates.append(termination.changed(report=None, traceback=text))
    bare = candidates[-1]
    candidates.append(bare.changed(message=bare.message[:256], hint=None, exception=None))
    encoded = (json.dumps(item.to_wire(), ensure_ascii=True).encode() for item in candidates)
    return next(data for data in encoded if len(data) <= TERMINATION_MESSAGE_BYTES)


def write_termination(path: str, termination: Termination) -> None:
    """Write the termination message; a worker outside a pod may have nowhere to write it, which is no failure."""
    try:
        # The file is a mount point in a pod: it can be written to but not replaced.
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    except OSError:
        return
    with os.fdopen(descriptor, "wb") as file:
        file.write(fit(termination))


def _trimmed(report: WorkerReport) -> list[WorkerReport]:
    plain = report.changed(heartbeats=[])
    # Earlier reports have already told what was found out before the first step.
    told = plain.changed(preflight=None, relaunched=None)
    shorter = [told.changed(checkpoints=told.checkpoints[-keep:]) for keep in (10, 3, 1)]
    last = shorter[-1].changed(checkpoints=[], message="")
    if last.results is not None and last.results.samples:
        last = last.changed(results=last.results.changed(samples=[]))
    return [plain, told, *shorter, last, last.changed(evaluation=None)]


def _with_report(termination: Termination, report: WorkerReport) -> Termination:
    return termination.changed(report=report)
