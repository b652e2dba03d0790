"""Which rank is at fault when a job hangs. All of them stand still then; one of them is why.

What is known of a rank is a `Witness`: what the kernel says of it, and where it stands. Ranks that wait for others, inside a
collective or a backward pass, are victims. Who does not is the culprit; if none or all wait, that is said instead.
"""

from collections.abc import Collection, Sequence

from trainwright.api.base import Model
from trainwright.api.exit_codes import ExitCode, classify
from trainwright.api.worker import Cause
from trainwright_worker.agent.stacks import State

LONGEST_PLACE = 200
LONGEST_STACK = 1200
_LISTED = 10

_STOPPED_HINT = "something has stopped the process from outside (kill -STOP, a debugger); find out what does"
_ASLEEP_HINT = "storage or a device driver does not answer; check the node and the volumes of the job"
_STUCK_HINT = "the logs of the workers hold the stacks of all ranks; if a step can take as long, raise spec.health.hang.minSeconds"


class Witness(Model):
    """What one rank was found to do.

    Attributes:
        worker: Its worker.
        rank: The rank.
        step: Newest step it has finished.
        seconds: For how long it has not moved.
        state: What the kernel says of it.
        waits: Whether it waits for other ranks or for its device.
        place: Where it stands, for people to read; empty if it could not be told.
        stack: Its innermost frames, a line each.
    """

    worker: int
    rank: int
    step: int
    seconds: float
    state: str
    waits: bool
    place: str = ""
    stack: str = ""


class Verdict(Model):
    """Why a job hangs.

    Attributes:
        cause: What all workers say of it.
        worker: Worker whose failure it is: that of the rank at fault, or else the one that noticed; None if the worker
            at fault does not answer, which nobody can take over for it.
    """

    cause: Cause
    worker: int | None = None


def judge(witnesses: Sequence[Witness], silent: Collection[int], finder: Witness) -> Verdict:
    """Return why the job hangs.

    Args:
        witnesses: What was found of the ranks of all workers that answered.
        silent: Workers that did not answer.
        finder: The rank whose standing still was noticed first.
    """
    culprit = _find(witnesses, all_answered=not silent)
    if culprit is not None:
        return Verdict(cause=_cause(_describe(culprit), _hint(culprit), culprit), worker=culprit.worker)
    stood = _stood(finder)
    if silent:
        names = ", ".join(str(index) for index in sorted(silent)[:_LISTED])
        text = f"{stood} on rank {finder.rank}, and worker {names} does not answer"
        return Verdict(cause=_cause(text, "its process may be stopped, or its node be cut off", None))
    text = (
        f"{stood} on any rank: all of them wait for each other or for their devices, and which one is at fault cannot be "
        "told"
    )
    return Verdict(cause=_cause(text, _STUCK_HINT, None), worker=finder.worker)


def _find(witnesses: Sequence[Witness], *, all_answered: bool) -> Witness | None:
    """Return the rank at fault; None if it cannot be told."""
    for state in (State.STOPPED, State.ASLEEP):
        found = next((witness for witness in witnesses if witness.state == state), None)
        if found is not None:
            return found
    if len(witnesses) == 1 and all_answered:
        return witnesses[0]
    return next((witness for witness in witnesses if not witness.waits), None)


def _describe(culprit: Witness) -> str:
    where = {
        State.STOPPED: "the process is stopped (SIGSTOP)",
        State.ASLEEP: f"the process sleeps in the kernel and heeds no signal{_within(culprit)}",
    }.get(State(culprit.state), f"it stands in {culprit.place}" if culprit.place else "where it stands cannot be told")
    return f"rank {culprit.rank} (worker {culprit.worker}) hangs: {_stood(culprit)}; {where}"


def _stood(witness: Witness) -> str:
    if witness.step == 0:
        return f"no sign of life for {witness.seconds:.0f} s before its first step"
    return f"no step for {witness.seconds:.0f} s after step {witness.step}"


def _within(culprit: Witness) -> str:
    return f", in {culprit.place}" if culprit.place else ""


def _hint(culprit: Witness) -> str:
    return {State.STOPPED: _STOPPED_HINT, State.ASLEEP: _ASLEEP_HINT}.get(State(culprit.state), _STUCK_HINT)


def _cause(text: str, hint: str, culprit: Witness | None) -> Cause:
    return Cause(
        exit_code=ExitCode.HANG,
        category=classify(ExitCode.HANG),
        message=text[:1024],
        hint=hint,
        worker=None if culprit is None else culprit.worker,
        rank=None if culprit is None else culprit.rank,
        traceback=culprit.stack if culprit is not None and culprit.stack else None,
    )
