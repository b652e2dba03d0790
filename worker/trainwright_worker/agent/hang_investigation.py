"""How the workers of a job find out together why it hangs, through the store of the rendezvous.

The worker that notices a hang opens an investigation of its round. The others look for one every second, as they look for a
new round. Each worker writes its ranks' stacks to its log and its findings to the store. The worker that opened the
investigation concludes it, and all act on its diagnosis. Workers also announce here that one of their ranks does something that
may take long: ranks that wait for it make no progress either, and must not be taken for hung.

Keys, all below the job's uid: `resting/<round>` (a counter that rises while a rank of any worker cannot be expected to take
a step), `hang/<round>` (which worker has opened an investigation), `findings/<round>/<index>` and `findings/<round>` (what each worker
has found, and how many have), `diagnosis/<round>`, `cause/<round>` (why the launch of that round has failed).
"""

import json
import time
from collections.abc import Collection, Sequence
from contextlib import suppress
from typing import Final

from pydantic import ValidationError
from torch.distributed import Store  # type: ignore[attr-defined]

from trainwright.api.worker import Cause
from trainwright_worker.agent.hang_diagnosis import HangDiagnosis, RankFinding, diagnose

FINDINGS_SECONDS: Final = 6.0
"""How long the other workers may take to notice an investigation and to add their findings."""
DIAGNOSIS_SECONDS: Final = 10.0
_POLL_SECONDS: Final = 0.05


class HangInvestigation:
    """The investigation of one round, seen from one worker.

    Every method raises RuntimeError if the store is gone.
    """

    def __init__(self, keys: Store, number: int, index: int, members: Collection[int]) -> None:
        """Prepare; nothing is opened.

        Args:
            keys: The job's part of the store.
            number: Number of the round.
            index: This worker.
            members: All workers of the round.
        """
        self._keys = keys
        self._round = number
        self._index = index
        self._members = members
        self._rested = 0

    @property
    def others(self) -> list[int]:
        """All workers of the round but this one."""
        return [member for member in self._members if member != self._index]

    @property
    def opened(self) -> bool:
        """Whether some worker has noticed a hang."""
        return len(self._members) > 1 and bool(self._keys.check([f"hang/{self._round}"]))

    def report_resting(self) -> None:
        """Announce that a rank of this worker cannot be expected to take a step."""
        if len(self._members) > 1:
            self._keys.add(f"resting/{self._round}", 1)

    def someone_rested(self) -> bool:
        """Return whether any worker has announced a resting rank since the last call."""
        if len(self._members) == 1:
            return False
        before, self._rested = self._rested, self._keys.add(f"resting/{self._round}", 0)
        return self._rested > before

    def open(self) -> bool:
        """Open the investigation; return whether this worker is the first to."""
        return bytes(self._keys.compare_set(f"hang/{self._round}", "", str(self._index))).decode() == str(self._index)

    def add_findings(self, findings: Sequence[RankFinding]) -> None:
        """Add what was found of the ranks of this worker."""
        content = json.dumps([finding.to_wire() for finding in findings])
        self._keys.set(f"findings/{self._round}/{self._index}", content)
        self._keys.add(f"findings/{self._round}", 1)

    def conclude(self, noticed: RankFinding) -> HangDiagnosis:
        """Hear all workers and diagnose; for the worker that has opened the investigation."""
        self._await_findings()
        found: list[RankFinding] = []
        silent = []
        for member in self._members:
            key = f"findings/{self._round}/{member}"
            answer = _read(bytes(self._keys.get(key))) if self._keys.check([key]) else None
            if answer is None:
                silent.append(member)
            else:
                found += answer
        diagnosis = diagnose(found, silent, noticed)
        self._keys.set(f"diagnosis/{self._round}", json.dumps(diagnosis.to_wire()))
        return diagnosis

    def _await_findings(self) -> None:
        deadline = time.monotonic() + FINDINGS_SECONDS
        while self._keys.add(f"findings/{self._round}", 0) < len(self._members) and time.monotonic() < deadline:
            time.sleep(_POLL_SECONDS)

    def await_diagnosis(self) -> HangDiagnosis | None:
        """Wait for the diagnosis; None if none comes."""
        key = f"diagnosis/{self._round}"
        deadline = time.monotonic() + DIAGNOSIS_SECONDS
        while not self._keys.check([key]):
            if time.monotonic() > deadline:
                return None
            time.sleep(_POLL_SECONDS)
        try:
            return HangDiagnosis.model_validate_json(bytes(self._keys.get(key)))
        except ValidationError:
            return None


def leave_cause(keys: Store, number: int, cause: Cause, worker: int | None) -> Cause | None:
    """Record why the launch of a round failed, for the reports of the next launch, unless another worker was first.

    Args:
        keys: The job's part of the store.
        number: Number of the round.
        cause: Why.
        worker: The worker whose failure it is, if that is known.

    Returns:
        The cause that was recorded first; None if the store is gone.
    """
    fields = {name: getattr(cause, name) for name in Cause.model_fields}
    content = json.dumps(Cause(**{**fields, "worker": worker}).to_wire())
    with suppress(RuntimeError, ValidationError):
        return Cause.model_validate_json(bytes(keys.compare_set(f"cause/{number}", "", content)))
    return None


def read_cause(keys: Store, number: int) -> Cause | None:
    """Return why the launch of a round failed; None if no worker recorded it."""
    key = f"cause/{number}"
    with suppress(RuntimeError, ValidationError):
        return Cause.model_validate_json(bytes(keys.get(key))) if keys.check([key]) else None
    return None


def _read(content: bytes) -> list[RankFinding] | None:
    """Return the findings of a worker, or None if they cannot be parsed."""
    try:
        return [RankFinding.model_validate_json(json.dumps(item)) for item in json.loads(content)]
    except (ValidationError, ValueError, TypeError):
        return None
