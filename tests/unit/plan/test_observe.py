"""Manifests as a cluster holds them, read."""

from dataclasses import replace
from datetime import timedelta

import pytest
from situations import NOW, observed, pod, report, running_job, spec

from trainwright.api.exit_codes import FailureClass
from trainwright.api.job import InvalidJobError
from trainwright.api.status import Phase
from trainwright.cluster.compact import compact_pod
from trainwright.plan import plan
from trainwright.plan.observe import read_job, read_pod

META = {"namespace": "team", "name": "digits", "uid": "u", "creationTimestamp": "2026-01-02T03:04:05Z"}


@pytest.mark.parametrize(("asked", "read"), [(100, 100), ("soon", None), (None, None)])
def test_the_time_to_live_is_known_even_if_the_rest_is_not(asked, read):
    job = read_job({"metadata": META, "spec": {"modle": {}, "ttlSecondsAfterFinished": asked}})
    assert isinstance(job.spec, InvalidJobError)
    assert job.time_to_live == read
    assert read_job({"metadata": META}).time_to_live is None


def with_a_sidecar(code, phase="Running"):
    """Return worker 0's pod, whose worker has ended while a sidecar runs."""
    ended = {"exitCode": code, "finishedAt": "2026-01-02T03:04:05Z"}
    containers = [
        {"name": "worker", "ready": False, "state": {"terminated": ended}},
        {"name": "istio-proxy", "ready": True, "state": {"running": {}}},
    ]
    meta = {"name": "digits-0-1", "uid": "uid-0-1"}
    manifest = {"metadata": meta, "spec": {}, "status": {"phase": phase, "containerStatuses": containers}}
    return read_pod(manifest, "digits")


@pytest.mark.parametrize(
    ("code", "phase", "read"),
    [
        (0, "Running", ("Succeeded", True)),
        (64, "Running", ("Failed", True)),
        (0, "Succeeded", ("Succeeded", False)),
        (0, "Failed", ("Succeeded", False)),  # evicted after its work was done, or with a sidecar that failed
        (75, "Succeeded", ("Failed", False)),
    ],
)
def test_a_worker_ends_although_a_sidecar_runs_on(code, phase, read):
    pod = with_a_sidecar(code, phase)
    assert (pod.phase, pod.outlived) == read
    assert pod.live == pod.outlived == (not pod.ended)


def test_a_job_succeeds_beside_a_sidecar_which_is_then_taken_away():
    running = running_job()
    over = plan(observed(running, with_a_sidecar(0), pod(1)))
    assert (over.status.phase, over.delete) == (Phase.SUCCEEDED, ())
    finished = replace(running, status=over.status)
    kept = plan(observed(finished, with_a_sidecar(0), pod(1, phase="Succeeded")))
    assert (kept.delete, kept.requeue_after) == ((), pytest.approx(30))
    late = plan(observed(finished, with_a_sidecar(0), pod(1, phase="Succeeded"), now=NOW + timedelta(seconds=30)))
    assert [deletion.name for deletion in late.delete] == ["digits-0-1"]


def test_a_failure_beside_a_sidecar_is_answered():
    running = running_job()
    over = plan(observed(running, with_a_sidecar(64), pod(1), report=report(50)))
    assert over.status.phase == Phase.FAILED
    assert {deletion.name for deletion in over.delete} == {"digits-0-1", "digits-1-1"}
    restarting = replace(running, status=plan(observed(running, with_a_sidecar(69), pod(1))).status)
    carried_out = plan(observed(restarting, with_a_sidecar(69), pod(1)))
    assert {deletion.name for deletion in carried_out.delete} == {"digits-0-1", "digits-1-1"}


def test_a_suspended_job_has_no_sidecars_either():
    running = running_job()
    halted = replace(running, spec=spec(workers={"count": 2}, suspend=True))
    halted = replace(halted, status=plan(observed(halted, with_a_sidecar(75), pod(1))).status)
    assert halted.status.message.startswith("suspending: 2 workers still")
    assert len(plan(observed(halted, with_a_sidecar(75), pod(1))).delete) == 2


def test_the_image_of_a_pod_is_kept_and_read():
    containers = [
        {"name": "proxy", "image": "proxy:1"},
        {"name": "worker", "image": "worker:1", "env": [{"name": "A"}]},
    ]
    manifest = {"metadata": {"name": "digits-1-1", "uid": "u"}, "spec": {"containers": containers}, "status": {}}
    kept = compact_pod(manifest)
    assert kept["spec"]["containers"] == [{"name": "worker", "image": "worker:1"}]
    assert read_pod(kept, "digits").image == "worker:1"
    assert read_pod({**kept, "spec": {}}, "digits").image is None


@pytest.mark.parametrize(
    ("message", "read", "garbled"),
    [
        (None, False, False),
        ('{"exitCode": 0}', True, False),
        ('{"exitCode": 0, "new": 1}', True, False),  # of a later version
        ('{"exitCode": "new"}', False, True),
        ("bye", False, True),
    ],
)
def test_a_last_word_that_cannot_be_read_is_one_all_the_same(message, read, garbled):
    ended = {"exitCode": 0, "finishedAt": "2026-01-02T03:04:05Z"} | ({} if message is None else {"message": message})
    status = {"phase": "Succeeded", "containerStatuses": [{"name": "worker", "state": {"terminated": ended}}]}
    seen = read_pod({"metadata": {"name": "digits-0-1", "uid": "u"}, "spec": {}, "status": status}, "digits")
    assert (seen.termination is not None, seen.garbled) == (read, garbled)


@pytest.mark.parametrize("reason", ["StartError", "ContainerCannotRun"])
def test_what_the_runtime_says_of_a_container_that_it_cannot_start_is_told(reason):
    words = "nvidia-container-cli: initialization error: driver/library version mismatch"
    ended = {"exitCode": 128, "reason": reason, "message": words, "finishedAt": "2026-01-02T03:04:05Z"}
    status = {"phase": "Failed", "containerStatuses": [{"name": "worker", "state": {"terminated": ended}}]}
    manifest = {"metadata": {"name": "digits-0-1", "uid": "u"}, "spec": {"nodeName": "gpu-7"}, "status": status}
    seen = read_pod(compact_pod(manifest), "digits")
    assert not seen.garbled
    failure = plan(observed(running_job(), seen, pod(1))).status.failure
    assert failure.message == f"worker 0 on node gpu-7 could not be started: {words}"
    assert (failure.category, failure.exit_code) == (FailureClass.INFRASTRUCTURE, 128)
    assert "container runtime" in failure.hint


def test_an_init_container_that_somebody_has_added_and_that_fails_is_named():
    ended = [{"name": "fine", "state": {"terminated": {"exitCode": 0}}}, {"name": "vault", "state": {"running": {}}}]
    failed = {"name": "vault", "state": {"terminated": {"exitCode": 3}}}
    status = {"phase": "Failed", "initContainerStatuses": [ended[0], failed]}
    manifest = {"metadata": {"name": "digits-0-1", "uid": "u"}, "spec": {}, "status": status}
    failure = plan(observed(running_job(), read_pod(compact_pod(manifest), "digits"), pod(1))).status.failure
    assert failure.message == "worker 0 failed: its init container vault ended with code 3"
    assert (
        "initContainerStatuses" not in compact_pod({**manifest, "status": {"initContainerStatuses": ended}})["status"]
    )
