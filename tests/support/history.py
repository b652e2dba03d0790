"""The history of jobs and their pods as a watch tells it, and what must hold at every moment of it, whatever happens.

Owns no connection: an observer feeds it with objects and the time at which they were seen.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

Manifest = dict[str, Any]

LOSSES = ("restarting", "replaying", "stalled")
"""Entries of a job's ledger that only failures fill."""
KINDS = ("pending", "starting", "training", "checkpointing", "evaluating", *LOSSES, "suspended")
LONGEST_SILENCE = 150.0
"""Seconds that a running job may say nothing: an operator on a node that went silent is replaced within that time."""

ENDS = {"Succeeded", "Failed"}
NEXT: dict[str | None, set[str]] = {
    None: {"Pending"},
    "Pending": {"Starting", "Running", "Restarting", "Suspended", *ENDS},
    "Starting": {"Running", "Restarting", "Suspended", *ENDS},
    "Running": {"Starting", "Restarting", "Suspended", *ENDS},
    "Restarting": {"Starting", "Running", "Suspended", *ENDS},
    "Suspended": {"Pending", *ENDS},
    "Succeeded": set(),
    "Failed": set(),
}
"""Which phases may follow which. Several may fall into one write, but not in another order."""


@dataclass
class Fault:
    """Something that was done.

    Attributes:
        kind: What.
        job: To which job; None for what strikes all of them.
        seconds: What it cost, summed over the jobs' ledgers.
        restarts: Restarts that followed from it.
        replayed: Steps that were trained again because of it.
    """

    kind: str
    job: str | None = None
    seconds: int = 0
    restarts: int = 0
    replayed: int = 0


@dataclass
class Life:
    """What is known of one job.

    Attributes:
        count: Workers that it asks for.
        limit: Restarts without progress that it may have.
        seen_at: When it last said something.
        blamed: What was last done to it.
    """

    name: str
    uid: str
    count: int
    limit: int
    status: Manifest
    seen_at: float
    blamed: Fault | None = None


class History:
    """What happened, and what should not have.

    Attributes:
        lives: Jobs by name.
        violations: What broke a rule, in words.
        faults: What was done.
        unexplained: What was lost without any fault.
        surprises: Why jobs were restarted that no fault had struck, in their own words.
        longest_silence: Seconds for which a running job said nothing while there was somebody to hear it.
    """

    def __init__(self) -> None:
        self.lives: dict[str, Life] = {}
        self.violations: list[str] = []
        self.faults: list[Fault] = []
        self.unexplained = Fault("nothing")
        self.surprises: list[str] = []
        self.longest_silence = 0.0
        self._pods: dict[str, Manifest] = {}

    def struck(self, fault: Fault) -> None:
        """Take note of a fault: what its jobs lose from now on is charged to it."""
        self.faults.append(fault)
        for life in self.lives.values():
            if fault.job in (None, life.name):
                life.blamed = fault

    # -- What the observer tells ---------------------------------------------------------------------------------------

    def relisted(self, kind: str, items: Iterable[Manifest], at: float) -> None:
        """Take over a complete listing of `jobs` or `pods`: what came before it may have been missed."""
        if kind == "pods":
            self._pods.clear()
            for pod in items:
                self._pods[pod["metadata"]["uid"]] = pod
            self._count_pods({_job_of(pod) for pod in self._pods.values()})
            return
        known, self.lives = self.lives, {}
        for job in items:
            name = job["metadata"]["name"]
            if name in known and known[name].uid == job["metadata"]["uid"]:
                self.lives[name] = known[name]
                known[name].seen_at = at  # nobody could hear it meanwhile
            self.job_seen(job, at, missed=True)

    def job_seen(self, job: Manifest, at: float, *, missed: bool = False) -> None:
        """Take note of a job as it now is; with `missed`, there may have been other states before."""
        meta, status = job["metadata"], job.get("status") or {}
        life = self.lives.get(meta["name"])
        if life is None or life.uid != meta["uid"]:
            spec = job["spec"]
            count, limit = spec["workers"]["count"], spec.get("restart", {}).get("limit", 3)
            self.lives[meta["name"]] = Life(meta["name"], meta["uid"], count, limit, status, at)
            return
        self._compare(life, status, missed=missed)
        self._hear(life, at)
        life.status = status

    def job_gone(self, job: Manifest) -> None:
        """Take note of a deletion."""
        self.lives.pop(job["metadata"]["name"], None)

    def pod_seen(self, pod: Manifest) -> None:
        """Take note of a pod as it now is."""
        self._pods[pod["metadata"]["uid"]] = pod
        self._count_pods({_job_of(pod)})

    def pod_gone(self, pod: Manifest) -> None:
        """Take note of a pod's end."""
        self._pods.pop(pod["metadata"]["uid"], None)

    def close(self, at: float) -> None:
        """Look a last time for those that have fallen silent."""
        for life in self.lives.values():
            self._hear(life, at)

    # -- What must hold ------------------------------------------------------------------------------------------------

    def _wrong(self, life: Life, what: str) -> None:
        self.violations.append(f"{life.name}: {what}")

    def _hear(self, life: Life, at: float) -> None:
        silent, life.seen_at = at - life.seen_at, at
        if life.status.get("phase") != "Running":
            return
        self.longest_silence = max(self.longest_silence, silent)
        if silent > LONGEST_SILENCE:
            self._wrong(life, f"said nothing for {silent:.0f} s while running")

    def _compare(self, life: Life, now: Manifest, *, missed: bool) -> None:
        before = life.status
        old, new = before.get("phase"), now.get("phase")
        if new != old and new not in NEXT[old] and (not missed or old in ENDS):
            self._wrong(life, f"went from {old} to {new}")
        for counter in ("attempt", "restarts"):
            if now.get(counter, 0) < before.get(counter, 0):
                self._wrong(life, f"{counter} fell from {before[counter]} to {now.get(counter)}")
        if now.get("restartsWithoutProgress", 0) > life.limit:
            self._wrong(life, f"{now['restartsWithoutProgress']} restarts without progress, of at most {life.limit}")
        if _work(now) < _work(before):
            self._wrong(life, f"step fell unexplained: {before.get('progress')} to {now.get('progress')}")
        self._check_ledger(life, now)
        self._charge(life, before, now)

    def _check_ledger(self, life: Life, now: Manifest) -> None:
        before, after = life.status.get("goodput"), now.get("goodput")
        if before is None or after is None:
            return
        charged = sum(after.get(kind, 0) - before.get(kind, 0) for kind in KINDS)
        passed = (datetime.fromisoformat(after["until"]) - datetime.fromisoformat(before["until"])).total_seconds()
        if charged != passed or passed < 0:
            self._wrong(life, f"the ledger charges {charged} s for {passed:.0f} s")

    def _charge(self, life: Life, before: Manifest, now: Manifest) -> None:
        fault = life.blamed or self.unexplained
        # Every start of processes but the first is a loss, too.
        kinds = (*LOSSES, "starting") if now.get("restarts") else LOSSES
        fault.seconds += sum(_seconds(now, kind) - _seconds(before, kind) for kind in kinds)
        restarts = now.get("restarts", 0) - before.get("restarts", 0)
        fault.restarts += restarts
        if restarts and fault is self.unexplained:
            self.surprises.append(f"{life.name} was restarted: {(now.get('failure') or {}).get('message')}")
        fault.replayed += _replayed(now) - _replayed(before)

    def _count_pods(self, names: set[str]) -> None:
        for life in [life for name, life in self.lives.items() if name in names]:
            seats = Counter(_seat(pod) for pod in self._pods.values() if _job_uid(pod) == life.uid and _lives(pod))
            for seat in [seat for seat, pods in seats.items() if pods > 1 or seat >= life.count]:
                self._wrong(life, f"{seats[seat]} live pods of worker {seat} of {life.count}")


def _work(status: Manifest) -> int:
    """Return the steps done, those included that a restart had to do again: it never falls."""
    return status.get("progress", {}).get("step", 0) + _replayed(status)


def _replayed(status: Manifest) -> int:
    return int(status.get("progress", {}).get("replayedSteps", 0))


def _seconds(status: Manifest, kind: str) -> int:
    return int((status.get("goodput") or {}).get(kind, 0))


def _job_of(pod: Manifest) -> str:
    return str(pod["metadata"]["labels"]["trainwright.dev/job-name"])


def _job_uid(pod: Manifest) -> str | None:
    return next((owner["uid"] for owner in pod["metadata"].get("ownerReferences", ())), None)


def _seat(pod: Manifest) -> int:
    return int(pod["metadata"]["labels"]["trainwright.dev/worker-index"])


def _lives(pod: Manifest) -> bool:
    ended = pod.get("status", {}).get("phase") in ("Succeeded", "Failed")
    return not ended and "deletionTimestamp" not in pod["metadata"]
