"""Random lives of a job: whatever happens in whatever order, the decisions keep their promises.

The machine plays a cluster that is fair but unlucky. It applies each plan the way the controller does, may stop after any
single write, may see pods as they were a while ago, and lets pods start, end, fail, vanish and hang in Terminating, nodes
fall silent, workers report, late and again, sidecars outlive their workers, and people suspend, resume and edit the job, and
forbid and allow its service account.
"""

import json
from dataclasses import replace
from datetime import timedelta

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from schema import violations
from situations import NOW, SETTINGS, job, observed, report

from trainwright.api.crd import crd
from trainwright.api.exit_codes import ExitCode, classify
from trainwright.api.names import LABEL_ATTEMPT, LABEL_GROUP, LABEL_WORKER
from trainwright.api.spec import RestartSpec
from trainwright.api.spec.budget import BudgetSpec
from trainwright.api.status import (
    Checkpoint,
    ConditionType,
    Goodput,
    LaunchSeconds,
    Phase,
    TrainingJobStatus,
    read_status,
)
from trainwright.api.worker import Absentee, Termination, Waiting, WorkerPhase, WorkerReport
from trainwright.controller.reconcile import needs_proof
from trainwright.plan import Observed, Plan, Pod, changes, plan

WORKERS = 3
MOST_WORKERS = 4
TOTAL = 1000
LIMIT = 4
TEXTS = st.sampled_from(["0/2 nodes are available", "0/5000 nodes are available: " + "é" * 9000])
"""What schedulers and webhooks say has no end."""
STATUS_SCHEMA = crd()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["status"]


def saved(step):
    return Checkpoint(step=step, path=f"/checkpoints/{step}", bytes=1, sha256="0" * 64, saved_at=NOW)


class JobLife(RuleBasedStateMachine):
    """A TrainingJob of three workers, at first, from creation on."""

    def __init__(self):
        super().__init__()
        self.now = NOW
        self.job = job(
            workers=WORKERS,
            startDeadlineSeconds=600,
            restart={"limit": LIMIT, "backoffSeconds": 2},
            training={"steps": TOTAL, "globalBatchSize": 60},
        )
        self.edit(workers=self.job.spec.workers.model_copy(update={"service_account_name": "trainer"}))
        self.allowed = frozenset({"trainer"})
        self.pods: dict[str, Pod] = {}
        self.ever_created: set[str] = set()
        self.seen = self.pods
        self.sent: list[WorkerReport] = []
        self.report = None
        self.launch = 0
        self.step = 0
        self.launched_at = NOW
        self.saved = 0
        self.groups_served = False
        self.rejection = None
        self.trained_without: list[int] = []
        self.history = [self.status]

    @property
    def status(self) -> TrainingJobStatus:
        return self.job.status

    def decide(self, pods: dict[str, Pod] | None = None) -> Plan:
        return plan(self.observe(self.pods if pods is None else pods))

    def observe(self, pods: dict[str, Pod]) -> Observed:
        seen = {"report": self.report, "rejection": self.rejection, "groups_served": self.groups_served}
        platform = replace(SETTINGS, service_accounts=self.allowed)
        return observed(self.job, *pods.values(), now=self.now, settings=platform, **seen)

    def apply(self, decision: Plan, writes: int) -> int:
        """Carry out at most so many writes, in the controller's order; return how many were done."""
        done = 0
        for deletion in decision.delete:
            if done == writes:
                return done
            self.delete_pod(deletion.name)
            done += 1
        for manifest in decision.create:
            if done == writes:
                return done
            if manifest["kind"] == "Pod":
                self.create_pod(manifest["metadata"])
            done += 1
        if decision.status is not None and done < writes:
            wire = decision.status.to_wire()
            assert list(violations(wire, STATUS_SCHEMA)) == []
            stored = read_status(wire)
            self.job = replace(self.job, status=stored)
            self.history.append(stored)
            done += 1
        return done

    def create_pod(self, metadata):
        name, labels = metadata["name"], metadata["labels"]
        if name not in self.pods:
            self.ever_created.add(name)
            index, attempt = int(labels[LABEL_WORKER]), int(labels[LABEL_ATTEMPT])
            assert self.allowed
            rivals = [pod.name for pod in self.at_work() if pod.index == index]
            rivals += [pod.name for pod in self.at_work() if pod.attempt < self.status.oldest_attempt]
            assert rivals == [], f"{name} is made while {rivals} live"
            self.pods[name] = Pod(
                name=name,
                uid=f"{name}-{len(self.ever_created)}",
                index=index,
                attempt=attempt,
                phase="Pending",
                group=labels.get(LABEL_GROUP),
            )

    def delete_pod(self, name):
        pod = self.pods.get(name)
        if pod is not None and not pod.deleting:
            self.pods[name] = replace(pod, deletes_at=self.now + timedelta(seconds=30))

    def at_work(self) -> list[Pod]:
        """Pods whose worker runs or may come to run, whatever else runs in them."""
        return [pod for pod in self.pods.values() if pod.live and not pod.outlived]

    def pods_in(self, *phases: str) -> list[Pod]:
        return sorted((p for p in self.pods.values() if p.phase in phases), key=lambda p: p.name)

    def pick(self, data, pods: list[Pod]) -> Pod:
        return data.draw(st.sampled_from(pods))

    @rule(writes=st.integers(0, 8))
    def reconcile(self, writes):
        """A pass that may be killed after any write."""
        self.apply(self.decide(), writes)
        self.seen = dict(self.pods)

    @rule(writes=st.integers(0, 8))
    def reconcile_without_events(self, writes):
        """A pass that has heard nothing of pods since another one, but looks before it destroys or counts anything."""
        chosen = self.decide(self.seen)
        if needs_proof(self.observe(self.seen), chosen):
            self.seen = dict(self.pods)
            chosen = self.decide()
        self.apply(chosen, writes)

    @rule(seconds=st.integers(1, 90))
    def pass_time(self, seconds):
        self.now += timedelta(seconds=seconds)

    @precondition(lambda self: self.pods_in("Pending"))
    @rule(data=st.data())
    def start_pod(self, data):
        pod = self.pick(data, self.pods_in("Pending"))
        self.pods[pod.name] = replace(pod, phase="Running", node=f"node-{pod.index % 2}", waiting=None)

    @precondition(lambda self: self.pods_in("Pending"))
    @rule(data=st.data(), reason=st.sampled_from(["Unschedulable", "SchedulingGated"]), said=TEXTS)
    def refuse_a_place(self, data, reason, said):
        pod = self.pick(data, self.pods_in("Pending"))
        self.pods[pod.name] = replace(pod, waiting=(reason, said))

    @rule(said=st.none() | TEXTS)
    def refuse_creation(self, said):
        """A quota or a webhook lets no pod be created, or does again."""
        self.rejection = said

    @rule(served=st.booleans())
    def serve_groups(self, served):
        """The cluster comes to place groups of pods, or does so no more."""
        self.groups_served = served

    @precondition(lambda self: self.pods_in("Running"))
    @rule(
        data=st.data(),
        code=st.sampled_from([ExitCode.INFRASTRUCTURE, ExitCode.PREEMPTED, ExitCode.USER_ERROR, 137, 1]),
        sidecar=st.booleans(),
    )
    def fail_pod(self, data, code, sidecar):
        pod = self.pick(data, self.pods_in("Running"))
        said = Termination(exit_code=code, category=classify(code)) if code in list(ExitCode) else None
        ending = {"exit_code": int(code), "termination": said, "finished_at": self.now, "outlived": sidecar}
        self.pods[pod.name] = replace(pod, phase="Failed", **ending)

    @precondition(lambda self: self.pods)
    @rule(data=st.data(), disrupted=st.none() | TEXTS)
    def evict_pod(self, data, disrupted):
        pod = self.pick(data, self.pods_in("Pending", "Running", "Failed", "Succeeded"))
        if disrupted is not None:
            self.pods[pod.name] = replace(pod, disrupted=disrupted)
        self.delete_pod(pod.name)

    @precondition(lambda self: self.pods_in("Running"))
    @rule(data=st.data(), silent=st.booleans())
    def silence_node(self, data, silent):
        """A node does not answer any more, and its pods cannot go; or it answers again."""
        node = self.pick(data, self.pods_in("Running")).node
        for pod in self.pods_in("Running"):
            if pod.node == node:
                self.pods[pod.name] = replace(pod, silent=silent)
                if silent:
                    self.delete_pod(pod.name)

    @precondition(lambda self: self.pods)
    @rule(data=st.data())
    def remove_pod(self, data):
        """By force, or because its grace period is over."""
        del self.pods[self.pick(data, self.pods_in("Pending", "Running", "Failed", "Succeeded")).name]

    def absent(self) -> list[int]:
        """Those of the workers that this attempt is made for who do not run."""
        running = {p.index for p in self.pods_in("Running") if p.attempt >= self.status.oldest_attempt}
        return [index for index in range(self.status.workers.desired) if index not in running]

    def crew_runs(self) -> bool:
        size, absent = self.status.workers, self.absent()
        enough = size.desired - len(absent) >= (size.minimum or size.desired)
        return enough and 0 not in absent and self.status.attempt > 0

    @precondition(crew_runs)
    @rule(steps=st.integers(1, 50), relaunched=st.booleans())
    def train(self, steps, relaunched):
        fresh = self.launch == 0 or relaunched or self.status.progress.ended_launch == f"launch-{self.launch}"
        fresh = fresh or self.trained_without != self.absent()
        self.trained_without = self.absent()
        resumed = None
        if fresh:
            self.launch += 1
            resumed = self.step = self.step // 100 * 100
            self.launched_at = self.now
        self.step = min(TOTAL, self.step + steps)
        attempt = max(p.attempt for p in self.pods_in("Running") if p.index == 0)
        age = (self.now - self.launched_at).total_seconds()
        sequence = int((self.now - NOW).total_seconds() * 1000) + self.step
        self.saved = max(self.saved, self.step // 100 * 100)
        self.report = report(
            self.step,
            attempt,
            f"launch-{self.launch}",
            total_steps=TOTAL,
            resumed_from_step=resumed,
            absent=self.trained_without,
            checkpoints=[saved(self.saved)] if self.saved else [],
            seconds=LaunchSeconds(loading=0.3, training=0.7 * age, evaluating=0.3 * age),
        ).model_copy(update={"sequence": sequence})
        self.sent.append(self.report)

    @precondition(crew_runs)
    @rule(index=st.integers(1, 3), seconds=st.sampled_from([5.0, 70.0]), came=st.booleans())
    def wait_for_a_worker(self, index, seconds, came):
        """The workers meet anew, and one of those that run does not come."""
        runs = {p.index: p.attempt for p in self.pods_in("Running") if p.attempt >= self.status.oldest_attempt}
        missing = [Absentee(worker=index, attempt=runs.get(index, 0) if came else 0)]
        waiting = Waiting(joined=0, wanted=self.status.workers.desired, missing=missing, seconds=seconds)
        sequence = int((self.now - NOW).total_seconds() * 1000) + self.step
        word = report(0, runs[0], "rendezvous", WorkerPhase.RENDEZVOUS, waiting=waiting)
        self.report = word.model_copy(update={"sequence": sequence, "uid": self.job.uid})
        self.sent.append(self.report)

    @precondition(lambda self: self.sent)
    @rule(data=st.data())
    def report_again(self, data):
        """A report comes late, or once more: what is newer has been heard, unless the operator has started anew."""
        late = data.draw(st.sampled_from(self.sent))
        if late.newer_than(self.report):
            self.report = late

    @rule()
    def restart_operator(self):
        """What was reported is forgotten, and the pods are listed."""
        self.report = None
        self.seen = dict(self.pods)

    @precondition(lambda self: self.crew_runs() and self.step == TOTAL)
    @rule(sidecar=st.booleans())
    def finish(self, sidecar):
        leader = max((p for p in self.pods_in("Running") if p.index == 0), key=lambda p: p.attempt)
        last = self.report.model_copy(update={"phase": WorkerPhase.FINISHED})
        self.pods[leader.name] = replace(
            leader,
            phase="Succeeded",
            exit_code=0,
            finished_at=self.now,
            termination=Termination(exit_code=0, report=last),
            outlived=sidecar,
        )

    @rule(allowed=st.sampled_from([frozenset(), frozenset({"trainer"})]))
    def allow_account(self, allowed):
        self.allowed = allowed

    @rule(suspend=st.booleans())
    def toggle_suspension(self, suspend):
        self.edit(suspend=suspend)

    @rule(limit=st.sampled_from([0, 1, LIMIT, 9]), reaction=st.sampled_from(["restart", "fail"]))
    def change_restarts(self, limit, reaction):
        policy = {"limit": limit, "backoffSeconds": 2, "onFailure": {"Infrastructure": reaction}}
        self.edit(restart=RestartSpec.model_validate_json(json.dumps(policy)))

    @rule(start=st.sampled_from([None, 90, 600]), active=st.sampled_from([None, 60, 86_400]))
    def change_deadlines(self, start, active):
        self.edit(start_deadline_seconds=start, active_deadline_seconds=active)

    @rule(count=st.integers(1, MOST_WORKERS), least=st.sampled_from([None, 1, 2]))
    def resize(self, count, least):
        """Somebody wants other workers, or will do with fewer."""
        size = {"count": count, "min_count": least and min(least, count)}
        self.edit(workers=self.job.spec.workers.model_copy(update=size))

    def refuses(self, count):
        """Return whether this number of workers is refused: without durable checkpoints it cannot change after the first step."""
        workers = self.job.spec.workers.model_copy(update={"count": count})
        spec = self.job.spec.model_copy(update={"workers": workers})
        return changes.refusal(spec, self.status, self.job.generation) is not None

    def edit(self, **fields):
        spec = self.job.spec.model_copy(update=fields)
        self.job = replace(self.job, generation=self.job.generation + 1, spec=spec)

    @rule(hours=st.sampled_from([None, 0.2, 0.5, 2.0]))
    def grant(self, hours):
        """Somebody changes the budget, to less than what was used already if it comes to that."""
        self.edit(budget=None if hours is None else BudgetSpec(worker_hours=hours))

    @invariant()
    def a_spent_budget_or_a_suspension_lets_nobody_start(self):
        if self.status.budget_spent_at is not None or self.status.phase == Phase.SUSPENDED:
            assert not any(manifest["kind"] == "Pod" for manifest in self.decide().create)

    @invariant()
    def status_survives_the_wire(self):
        assert read_status(self.status.to_wire()) == self.status

    @invariant()
    def never_two_live_pods_for_one_worker_in_one_attempt(self):
        current = [p for p in self.at_work() if p.attempt >= self.status.oldest_attempt]
        # Those of a suspended job are on their way out, and may be more than it is to come back with.
        assert len(current) <= self.status.workers.desired or self.status.phase == Phase.SUSPENDED
        assert len({p.index for p in current}) == len(current)

    @invariant()
    def who_is_missing_is_missing_for_a_reason(self):
        size = self.status.workers
        if self.status.phase == Phase.RUNNING and size.training is not None and size.training < size.desired:
            assert self.status.condition(ConditionType.DEGRADED).status == "True"
            assert size.training == size.desired - len(size.absent) >= 1
            assert 0 not in size.absent

    @invariant()
    def pods_join_no_group_of_others(self):
        """One that waited for members that will never come would wait for ever."""
        current = [p for p in self.at_work() if p.attempt >= self.status.oldest_attempt]
        assert len({p.group for p in current} - {None}) <= 1

    @invariant()
    def who_waits_in_a_queue_gives_nothing_back(self):
        for before, after in zip(self.history, self.history[1:], strict=False):
            if before.phase == Phase.QUEUED:
                assert after.starts_given_up == before.starts_given_up

    @invariant()
    def counters_only_rise(self):
        for before, after in zip(self.history, self.history[1:], strict=False):
            assert after.attempt >= before.attempt
            assert after.oldest_attempt >= before.oldest_attempt
            assert after.restarts >= before.restarts
            assert after.oldest_attempt <= after.attempt

    @invariant()
    def every_second_is_charged_once(self):
        for before, after in zip(self.history, self.history[1:], strict=False):
            if after.goodput is None:
                continue
            charged = {kind: getattr(after.goodput, kind) for kind in Goodput.KINDS}
            assert sum(charged.values()) == (after.goodput.until - NOW).total_seconds()
            assert after.goodput.until <= self.now
            assert after.goodput.gpu_seconds_used <= after.goodput.gpu_seconds_held
            if before.goodput is not None:
                assert all(charged[kind] >= getattr(before.goodput, kind) for kind in charged)

    @invariant()
    def only_some_restarts_count(self):
        assert self.status.restarts_without_progress <= self.status.restarts

    @invariant()
    def nodes_are_avoided_for_failures_only(self):
        for known in self.status.avoided_nodes:
            assert self.status.node_failures[known.node] >= 2

    @invariant()
    def the_end_is_the_end(self):
        """But for the last word of the pods, once they are gone, and the generation that was seen."""
        ended = [status for status in self.history if status.phase is not None and status.phase.terminal]
        words = {status.model_copy(update={"observed_generation": None}).model_dump_json() for status in ended}
        assert len(words) <= 2
        for last in ended[1:]:
            names = ("workers", "checkpoints", "summary", "observed_generation")
            assert last == ended[0].model_copy(update={name: getattr(last, name) for name in names})
        assert all(status.progress.eta is None and not status.progress.stale for status in ended)

    @invariant()
    def progress_falls_only_with_a_word(self):
        for before, after in zip(self.history, self.history[1:], strict=False):
            if after.progress.step < before.progress.step:
                assert after.progress.replayed_steps > before.progress.replayed_steps

    def teardown(self):
        """Once faults stop, nobody suspends and no edit is refused, the job ends, and a settled job asks for nothing."""
        self.job = replace(self.job, spec=self.job.spec.model_copy(update={"suspend": False}))
        self.allowed = frozenset({"trainer"})
        sizes = (self.job.spec.workers.count, *range(1, MOST_WORKERS + 1))
        accepted = next(count for count in sizes if not self.refuses(count))
        if accepted != self.job.spec.workers.count:
            self.resize(accepted, None)
        for _ in range(60):
            self.apply(self.decide(), 99)
            for pod in list(self.pods.values()):
                if pod.deleting:
                    del self.pods[pod.name]
                elif pod.phase == "Pending":
                    self.pods[pod.name] = replace(pod, phase="Running")
            if self.status.phase is not None and self.status.phase.terminal:
                break
            if self.crew_runs():
                self.train(TOTAL, relaunched=False)
                if self.step == TOTAL:
                    self.finish(sidecar=True)
            self.now += timedelta(seconds=61)
        assert self.status.phase in (Phase.SUCCEEDED, Phase.FAILED)
        self.now += timedelta(seconds=120)
        self.apply(self.decide(), 99)
        self.pods = {pod.name: pod for pod in self.pods.values() if pod.ended and not pod.deleting}
        self.apply(self.decide(), 99)
        settled = self.decide()
        assert settled.status is None
        assert settled.create == ()
        assert {worker.phase for worker in self.status.workers.pods} <= {"Succeeded", "Failed"}


JobLife.TestCase.settings = settings(max_examples=150, stateful_step_count=40)
TestJobLife = JobLife.TestCase
