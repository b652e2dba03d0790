"""Which rank is at fault when a job hangs: all ranks stand still then, because of one of them.

What is known of a rank is a `RankFinding`: what the kernel says of it, and where it stands. Ranks that wait for others, inside
a collective or a backward pass, are victims. A rank that does not wait is the culprit. If all of them wait, the diagnosis says
so.
"""

from collections.abc import Collection, Sequence

from trainwright.api.base import Model
from trainwright.api.exit_codes import ExitCode, classify
from trainwright.api.worker import Cause
from trainwright_worker.agent.stacks import ProcessState

LONGEST_LOCATION = 200
LONGEST_STACK = 1200
_LISTED = 10

_STOPPED_HINT = "something has stopped the process from outside (kill -STOP, a debugger); find out what does"
_ASLEEP_HINT = "storage or a device driver does not answer; check the node and the volumes of the job"
_STUCK_HINT = "the logs of the workers hold the stacks of all ranks; if a step can take as long, raise spec.health.hang.minSeconds"


class RankFinding(Model):
    """What one rank was found to do.

    Attributes:
        worker: Its worker.
        rank: The rank.
        step: Newest step it has finished.
        seconds: For how long it has not moved.
        state: What the kernel says of it.
        waits: Whether it waits for other ranks or for its device.
        location: Where it stands, for people to read; empty if it could not be told.
        stack: Its innermost frames, a line each.
    """

    worker: int
    rank: int
    step: int
    seconds: float
    state: str
    waits: bool
    location: str = ""
    stack: str = ""


class HangDiagnosis(Model):
    """Why a job hangs.

    Attributes:
        cause: What all workers report.
        worker: Worker whose failure it is: that of the rank at fault, or else the one that noticed; None if the worker
            at fault does not answer, which nobody can take over for it.
    """

    cause: Cause
    worker: int | None = None


def diagnose(findings: Sequence[RankFinding], silent: Collection[int], noticed: RankFinding) -> HangDiagnosis:
    """Return why the job hangs.

    Args:
        findings: What was found of the ranks of all workers that answered.
        silent: Workers that did not answer.
        noticed: The rank that was noticed first.
    """
    culprit = _find(findings, all_answered=not silent)
    if culprit is not None:
        return HangDiagnosis(cause=_cause(_describe(culprit), _hint(culprit), culprit), worker=culprit.worker)
    stood = _stood(noticed)
    if silent:
        names = ", ".join(str(index) for index in sorted(silent)[:_LISTED])
        text = f"{stood} on rank {noticed.rank}, and worker {names} does not answer"
        return HangDiagnosis(cause=_cause(text, "its process may be stopped, or its node be cut off", None))
    text = (
        f"{stood} on any rank: all of them wait for each other or for their devices, and which one is at fault cannot be "
        "told"
    )
    return HangDiagnosis(cause=_cause(text, _STUCK_HINT, None), worker=noticed.worker)


def _find(findings: Sequence[RankFinding], *, all_answered: bool) -> RankFinding | None:
    """Return the rank at fault; None if it cannot be told."""
    for state in (ProcessState.STOPPED, ProcessState.ASLEEP):
        found = next((finding for finding in findings if finding.state == state), None)
        if found is not None:
            return found
    if len(findings) == 1 and all_answered:
        return findings[0]
    return next((finding for finding in findings if not finding.waits), None)


def _describe(culprit: RankFinding) -> str:
    where = {
        ProcessState.STOPPED: "the process is stopped (SIGSTOP)",
        ProcessState.ASLEEP: f"the process sleeps in the kernel and reacts to no signal{_within(culprit)}",
    }.get(
        ProcessState(culprit.state),
        f"it stands in {culprit.location}" if culprit.location else "where it stands cannot be told",
    )
    return f"rank {culprit.rank} (worker {culprit.worker}) hangs: {_stood(culprit)}; {where}"


def _stood(finding: RankFinding) -> str:
    if finding.step == 0:
        return f"no sign of life for {finding.seconds:.0f} s before its first step"
    return f"no step for {finding.seconds:.0f} s after step {finding.step}"


def _within(culprit: RankFinding) -> str:
    return f", in {culprit.location}" if culprit.location else ""


def _hint(culprit: RankFinding) -> str:
    return {ProcessState.STOPPED: _STOPPED_HINT, ProcessState.ASLEEP: _ASLEEP_HINT}.get(
        ProcessState(culprit.state), _STUCK_HINT
    )


def _cause(text: str, hint: str, culprit: RankFinding | None) -> Cause:
    return Cause(
        exit_code=ExitCode.HANG,
        category=classify(ExitCode.HANG),
        message=text[:1024],
        hint=hint,
        worker=None if culprit is None else culprit.worker,
        rank=None if culprit is None else culprit.rank,
        traceback=culprit.stack if culprit is not None and culprit.stack else None,
    )
