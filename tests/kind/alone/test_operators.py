"""What happens to operators themselves: they keep dying, are away, are upgraded, or are two. No job notices."""

import json
from base64 import b64encode
from datetime import timedelta

import faults
import jobs
import kube
import pytest

from trainwright.reports.certificates import create_authority

CA = ("secret", "trainwright-reports-ca")

pytestmark = pytest.mark.timeout(600, func_only=True)


def test_an_operator_that_keeps_dying_loses_nothing(operator, namespace):
    """It is killed at every turn of a job's life; the jobs go on as if it had not been, with the one restart they needed."""
    faults.kill_operators(operator)
    kube.apply(jobs.on_two_nodes("hardy"), namespace)
    kube.apply(jobs.manifest("brief"), namespace)
    turns = [
        lambda now: now.get("phase") in ("Pending", "Starting", "Running"),
        jobs.running_at(1),
        lambda now: now.get("checkpoints"),
    ]
    for turn in turns:
        jobs.wait_for(namespace, "hardy", turn)
        faults.kill_operators(operator)
    before, pods = jobs.status(namespace, "hardy"), jobs.uids(namespace, "hardy")
    unharmed = jobs.wait_for(namespace, "hardy", jobs.running_at(before["progress"]["step"] + 1))
    assert (unharmed["restarts"], unharmed["attempt"]) == (0, 1)
    assert jobs.uids(namespace, "hardy") == pods

    faults.delete_pod(namespace, "hardy-1-1", force=True)
    for turn in (lambda now: now.get("restarts") == 1, lambda now: now.get("phase") == "Running"):
        jobs.wait_for(namespace, "hardy", turn)
        faults.kill_operators(operator)
    before = jobs.status(namespace, "hardy")
    after = jobs.wait_for(namespace, "hardy", jobs.running_at(before["progress"]["step"] + 1))
    assert (after["restarts"], after["attempt"]) == (1, 2)
    assert sorted(pod["metadata"]["name"] for pod in jobs.pods(namespace, "hardy")) == ["hardy-0-1", "hardy-1-2"]
    final = jobs.wait_for(namespace, "brief", jobs.succeeded)
    assert (final["restarts"], final["attempt"], final["progress"]["step"]) == (0, 1, 200)
    assert final["metrics"]["evaluation"]["metrics"]["accuracy"] > 0.9
    events = kube.kubectl_json("get", "events", f"--namespace={namespace}", "--field-selector=reason=Succeeded")
    assert len(events["items"]) == 1


def test_what_ends_or_is_deleted_while_the_operator_is_away_comes_to_a_good_end(operator, namespace):
    kube.apply(jobs.manifest("away", training={"steps": 5000}), namespace)
    kube.apply(jobs.endless("deleted"), namespace)
    for name in ("away", "deleted"):
        jobs.wait_for(namespace, name, jobs.running_at(1))
    kube.kubectl("scale", "deployment", f"--namespace={operator}", "--all", "--replicas=0")
    try:
        kube.kubectl("delete", "tj", "deleted", f"--namespace={namespace}", "--timeout=60s")
        jobs.wait_until_nothing_is_left(namespace, "deleted")
        kube.wait_until(
            lambda: all(pod["status"]["phase"] == "Succeeded" for pod in jobs.pods(namespace, "away")),
            timeout=120,
            describe=lambda: "workers still run",
        )
    finally:
        kube.kubectl("scale", "deployment", f"--namespace={operator}", "--all", "--replicas=1")
    final = jobs.wait_for(namespace, "away", jobs.succeeded, timeout=120)
    assert final["progress"]["percent"] == 100
    assert final["metrics"]["evaluation"]["split"] == "test"
    assert final["results"]["weights"]


def test_a_running_job_notices_no_upgrade_no_new_ca_and_no_other_operator_that_takes_over(operator, namespace):
    kube.apply(jobs.endless("steady"), namespace)
    before = jobs.wait_for(namespace, "steady", jobs.running_at(50))
    pods = jobs.uids(namespace, "steady")

    def unharmed(since: jobs.Manifest) -> jobs.Manifest:
        now = jobs.wait_for(namespace, "steady", jobs.running_at(since["progress"]["step"] + 1))
        assert (now["restarts"], now["attempt"]) == (0, 1)
        assert jobs.uids(namespace, "steady") == pods
        return now

    def certificate() -> str:
        return kube.kubectl_json("get", *CA, f"--namespace={operator}")["data"]["tls.crt"]

    def next_certificate(*former: str) -> str:
        return kube.wait_until(
            lambda: now if (now := certificate()) not in former else "", timeout=30, describe=certificate
        )

    often = '--set-json=extraEnv=[{"name":"TRAINWRIGHT_REPORTS_CA_INTERVAL","value":"1"}]'
    with faults.operator_with(operator, "--set=log.level=debug", "--set=replicas=2", often):
        upgraded = unharmed(before)
        first = certificate()
        kube.kubectl("delete", *CA, f"--namespace={operator}")
        second = next_certificate(first)
        due = create_authority(lifetime=timedelta(days=300))
        data = {"tls.crt": b64encode(due.certificate).decode(), "tls.key": b64encode(due.key).decode()}
        kube.kubectl("patch", *CA, f"--namespace={operator}", "--type=merge", f"--patch={json.dumps({'data': data})}")
        next_certificate(first, second, data["tls.crt"])
        # From here on reports come over new connections.
        killed = faults.kill_leader(operator)
        kube.wait_until(
            lambda: faults.leader(operator) not in ("", killed), timeout=60, describe=lambda: faults.leader(operator)
        )
        unharmed(upgraded)
