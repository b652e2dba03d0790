"""The store: old news never replace newer ones, whichever way they come."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainwright.api.names import LABEL_JOB
from trainwright.api.worker import MOST_HEARTBEATS, RankHeartbeat, WorkerPhase, WorkerReport
from trainwright.cluster.port import JobKey, Listing
from trainwright.controller.store import Store
from trainwright.plan.types import Received

KEY = JobKey("team", "digits")
NOW = datetime(2026, 1, 2, tzinfo=UTC)


def job(version, uid="job-1", **status):
    return {
        "metadata": {"namespace": "team", "name": "digits", "uid": uid, "resourceVersion": str(version)},
        "spec": {},
        "status": status,
    }


def pod(version, uid="pod-1", owner="job-1", phase="Pending"):
    return {
        "metadata": {
            "namespace": "team",
            "name": f"digits-{uid}",
            "uid": uid,
            "resourceVersion": str(version),
            "labels": {LABEL_JOB: "digits"},
            "ownerReferences": [{"kind": "TrainingJob", "uid": owner, "controller": True}],
            "managedFields": [{"manager": "someone"}],
        },
        "spec": {"nodeName": "n1", "containers": [{"name": "worker", "image": "large"}]},
        "status": {"phase": phase},
    }


def report(sequence, uid="job-1", attempt=1):
    return WorkerReport(uid=uid, attempt=attempt, launch="a", sequence=sequence, phase=WorkerPhase.TRAINING)


@pytest.fixture
def told():
    return []


@pytest.fixture
def store(told):
    return Store(told.append)


@given(st.permutations([1, 2, 9, 10, 11]))
def test_the_newest_version_wins_in_any_order(order):
    store = Store()
    for version in order:
        store.job_changed(job(version, message=str(version)))
        store.pod_changed(pod(version, phase=str(version)))
    snapshot = store.snapshot(KEY)
    assert snapshot.job["status"]["message"] == "11"
    assert snapshot.pods[0]["status"]["phase"] == "11"


@given(st.permutations(["add", "change", "delete", "listing"]))
def test_what_is_gone_never_comes_back(order):
    store = Store()
    deleted = False
    for step in order:
        if step == "delete":
            store.pod_changed(pod(3), deleted=True)
            store.job_changed(job(3), deleted=True)
            deleted = True
        elif step == "listing":
            store.put_listing(Listing([job(2)], 2), Listing([pod(2)], 2))
        else:
            store.job_changed(job({"add": 1, "change": 2}[step]))
            store.pod_changed(pod({"add": 1, "change": 2}[step]))
        assert (store.snapshot(KEY) is None) == deleted
    assert store.job_keys() == []


def test_only_what_a_decision_may_depend_on_is_news(store, told):
    store.job_changed(job(1))
    store.pod_changed(pod(2))
    told.clear()
    store.job_changed(job(3, phase="Running"))  # the echo of our own write, before its answer
    unread = pod(4)
    unread["status"]["conditions"] = [{"type": "Initialized", "status": "True"}]
    store.pod_changed(unread)
    assert told == []
    assert store.snapshot(KEY).job["status"] == {"phase": "Running"}
    unscheduled = pod(5)
    unscheduled["status"]["conditions"] = [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}]
    store.pod_changed(unscheduled)
    edited = job(6)
    edited["metadata"]["generation"] = 2
    store.job_changed(edited)
    assert told == [KEY, KEY]


def test_own_writes_are_no_news(store, told):
    store.job_changed(job(1))
    store.put_job(job(2, phase="Pending"))
    store.put_pod(pod(3))
    store.job_changed(job(2, phase="Pending"))
    store.pod_changed(pod(3))
    assert told == [KEY]


def test_pods_of_a_former_job_of_that_name_are_not_its_own(store):
    store.pod_changed(pod(1, uid="old", owner="job-0"))
    store.job_changed(job(2))
    store.pod_changed(pod(3, uid="new"))
    assert [p["metadata"]["uid"] for p in store.snapshot(KEY).pods] == ["new"]


def test_a_job_created_again_starts_afresh(store):
    store.job_changed(job(1))
    store.report(KEY, 0, report(1), NOW)
    store.reject(KEY, "quota")
    store.job_changed(job(5, uid="job-2"))
    store.job_changed(job(3), deleted=True)  # the old one's deletion, seen late
    snapshot = store.snapshot(KEY)
    assert snapshot.job["metadata"]["uid"] == "job-2"
    assert (snapshot.received, snapshot.rejection) == (None, None)


def test_a_listing_removes_what_it_lacks_but_not_what_is_younger(store, told):
    store.job_changed(job(1))
    store.pod_changed(pod(2, uid="lost"))
    store.put_pod(pod(9, uid="young"))  # created while the listing was under way
    told.clear()
    store.put_listing(Listing([job(1)], 8), Listing([], 8))
    assert [p["metadata"]["uid"] for p in store.snapshot(KEY).pods] == ["young"]
    assert told == [KEY]
    store.put_listing(Listing([], 9), Listing([], 9))
    assert store.job_keys() == []


def test_a_listing_of_one_job_leaves_the_others_alone(store):
    store.job_changed(job(1))
    store.pod_changed(pod(2, uid="a"))
    other = pod(3, uid="b")
    other["metadata"]["labels"] = {LABEL_JOB: "other"}
    store.pod_changed(other)
    store.put_pods(KEY, Listing([pod(4, uid="c")], 4))
    assert [p["metadata"]["uid"] for p in store.snapshot(KEY).pods] == ["c"]
    assert JobKey("team", "other") in store.job_keys()


def test_keeps_only_the_newest_report_of_this_very_job(store, told):
    store.job_changed(job(1))
    told.clear()
    assert store.report(KEY, 0, report(5), NOW)
    assert not store.report(KEY, 0, report(4), NOW)
    assert store.report(KEY, 0, report(1, attempt=2), NOW)
    assert not store.report(KEY, 0, report(9, uid="job-0"), NOW)
    assert not store.report(JobKey("team", "none"), 0, report(9), NOW)
    assert told == [KEY, KEY]
    assert store.snapshot(KEY).received.report.attempt == 2


def test_knows_which_worker_a_pod_is_from_its_name_which_nobody_can_change(store):
    store.job_changed(job(1))
    for version, (uid, name, owner) in enumerate(
        [("a", "digits-3-2", "job-1"), ("b", "digits-0-1", "job-0"), ("c", "digits-x", "job-1")], start=2
    ):
        manifest = pod(version, uid=uid, owner=owner)
        manifest["metadata"]["name"] = name
        store.pod_changed(manifest)
    assert [store.worker_of(KEY, "job-1", uid) for uid in "abcd"] == [3, None, None, None]


def test_only_worker_0_speaks_for_the_job_and_the_others_of_what_they_wait_for(store, told):
    store.job_changed(job(1))
    assert store.report(KEY, 0, report(5), NOW)
    told.clear()
    assert not store.report(KEY, 1, report(9), NOW)
    word = report(9).model_copy(update={"phase": WorkerPhase.RENDEZVOUS, "message": "cannot reach worker 0"})
    assert store.report(KEY, 1, word, NOW)
    assert told == [KEY]
    snapshot = store.snapshot(KEY)
    assert snapshot.received.report.sequence == 5
    assert snapshot.waiting_reports == {1: Received(word, NOW)}
    assert (store.heard_at("team"), store.heard_at("other")) == (NOW, None)
    store.job_changed(job(5, uid="job-2"))
    assert store.snapshot(KEY).waiting_reports == {}


def test_of_a_worker_that_waits_nothing_is_kept_but_what_it_says(store):
    store.job_changed(job(1))
    beats = [RankHeartbeat(rank=rank, step=1, seconds_ago=1) for rank in range(MOST_HEARTBEATS)]
    said = {"phase": WorkerPhase.RENDEZVOUS, "message": "cannot reach worker 0"}
    store.report(KEY, 1, report(9).model_copy(update={**said, "heartbeats": beats, "absent": list(range(10_000))}), NOW)
    assert store.snapshot(KEY).waiting_reports == {1: Received(report(9).model_copy(update=said), NOW)}


def test_remembers_a_deletion_it_asked_for_until_the_pod_itself_says_more(store):
    store.job_changed(job(1))
    store.pod_changed(pod(2))
    store.pod_deleting(KEY, "pod-1", NOW)
    assert store.snapshot(KEY).pods[0]["metadata"]["deletionTimestamp"] == "2026-01-02T00:00:30Z"
    store.pod_changed(pod(3))
    assert "deletionTimestamp" not in store.snapshot(KEY).pods[0]["metadata"]
    store.pod_gone(KEY, "pod-1")
    assert store.snapshot(KEY).pods == ()


def test_keeps_little_of_a_pod(store):
    store.job_changed(job(1))
    store.pod_changed(pod(2))
    kept = store.snapshot(KEY).pods[0]
    assert "managedFields" not in kept["metadata"]
    assert kept["spec"] == {"nodeName": "n1", "containers": [{"name": "worker", "image": "large"}]}


def test_a_pod_that_only_has_the_label_of_a_job_is_not_kept(store, told):
    for owners in (
        [],
        [{"kind": "ReplicaSet", "uid": "job-1", "controller": True}],
        [{"kind": "TrainingJob", "uid": "job-1"}],
    ):
        stranger = pod(2)
        stranger["metadata"]["ownerReferences"] = owners
        store.pod_changed(stranger)
    assert store.job_keys() == []
    assert told == []


def test_keeps_nothing_of_what_a_tenant_may_add_to_a_pod(store):
    store.job_changed(job(1))
    large = pod(2)
    large["metadata"]["labels"] |= {f"team/{number}": "x" * 63 for number in range(1000)}
    large["metadata"]["ownerReferences"] += [
        {"kind": "Node", "uid": f"{number}", "name": "n"} for number in range(1000)
    ]
    large["spec"]["containers"] += [{"name": f"c{number}", "image": "i"} for number in range(1000)]
    store.pod_changed(large)
    (kept,) = store.snapshot(KEY).pods
    assert len(str(kept)) < 1000
