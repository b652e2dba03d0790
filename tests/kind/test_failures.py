"""What can go wrong on a cluster, and that it costs seconds and is told."""

import faults
import jobs
import kube
import pytest


def test_killed_worker_resumes_from_the_checkpoint(operator, namespace):
    kube.apply(jobs.endless("killed"), namespace)
    before = jobs.wait_for(namespace, "killed", lambda now: jobs.running_at(200)(now) and now.get("checkpoints"))
    pods = {pod["metadata"]["name"]: pod["metadata"]["uid"] for pod in jobs.pods(namespace, "killed")}

    kube.kubectl("delete", "pod", f"--namespace={namespace}", "killed-1-1", "--grace-period=0", "--force")
    counted = jobs.wait_for(namespace, "killed", lambda now: now.get("restarts") == 1)
    assert counted["failure"]["worker"] == 1
    after = jobs.wait_for(
        namespace, "killed", lambda now: now.get("phase") == "Running" and now["progress"].get("resumedFromStep")
    )
    assert after["attempt"] == 2
    assert after["progress"]["resumedFromStep"] >= before["checkpoints"][-1]["step"]
    assert f"resumed from step {after['progress']['resumedFromStep']}" in after["message"]
    # The other worker waited in its pod and went on.
    survivor = next(pod for pod in jobs.pods(namespace, "killed") if pod["metadata"]["name"] == "killed-0-1")
    assert survivor["metadata"]["uid"] == pods["killed-0-1"]
    events = kube.kubectl("get", "events", f"--namespace={namespace}", "--field-selector=reason=Restarting")
    assert "killed" in events


def test_killed_worker_0_takes_all_along_and_they_come_back(operator, namespace):
    kube.apply(jobs.endless("leader"), namespace)
    jobs.wait_for(namespace, "leader", lambda now: jobs.running_at(200)(now) and now.get("checkpoints"))
    kube.kubectl("delete", "pod", f"--namespace={namespace}", "leader-0-1", "--wait=false")
    after = jobs.wait_for(
        namespace, "leader", lambda now: now.get("phase") == "Running" and now.get("attempt") == 2, timeout=180
    )
    assert after["progress"]["resumedFromStep"] > 0
    assert after["failure"]["category"] == "Preempted"


def test_killed_operator_loses_nothing(operator, namespace):
    kube.apply(jobs.endless("steady"), namespace)
    before = jobs.wait_for(namespace, "steady", jobs.running_at(100))
    pods = {pod["metadata"]["uid"] for pod in jobs.pods(namespace, "steady")}
    faults.kill_operators(operator)
    after = jobs.wait_for(namespace, "steady", jobs.running_at(before["progress"]["step"] + 1), timeout=180)
    assert (after["restarts"], after["attempt"]) == (0, 1)
    assert {pod["metadata"]["uid"] for pod in jobs.pods(namespace, "steady")} == pods


def test_a_job_that_ends_while_the_operator_is_away_still_tells_everything(operator, namespace):
    kube.apply(jobs.manifest("away", training={"steps": 5000}), namespace)
    jobs.wait_for(namespace, "away", jobs.running_at(1))
    kube.kubectl("scale", "deployment", f"--namespace={operator}", "--all", "--replicas=0")
    try:
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


def test_suspension_frees_the_pods_and_resumes_where_it_was(operator, namespace):
    kube.apply(jobs.endless("pause"), namespace)
    jobs.wait_for(namespace, "pause", jobs.running_at(100))
    kube.kubectl(
        "patch", "tj", "pause", f"--namespace={namespace}", "--type=merge", '--patch={"spec":{"suspend":true}}'
    )
    kube.kubectl("wait", f"--namespace={namespace}", "--for=condition=Suspended", "tj/pause", "--timeout=90s")
    held = jobs.status(namespace, "pause")
    assert all(pod["status"]["phase"] in ("Failed", "Succeeded") for pod in jobs.pods(namespace, "pause"))
    kube.kubectl(
        "patch", "tj", "pause", f"--namespace={namespace}", "--type=merge", '--patch={"spec":{"suspend":false}}'
    )
    again = jobs.wait_for(namespace, "pause", lambda now: now.get("phase") == "Running")
    assert again["progress"]["resumedFromStep"] >= held["progress"]["step"]
    assert again["progress"]["replayedSteps"] == 0
    assert again["restarts"] == 0


@pytest.mark.parametrize("operator_is_up", [True, False])
def test_a_deleted_job_leaves_nothing(operator, namespace, operator_is_up):
    kube.apply(jobs.endless("deleted"), namespace)
    jobs.wait_for(namespace, "deleted", jobs.running_at(1))
    if not operator_is_up:
        kube.kubectl("scale", "deployment", f"--namespace={operator}", "--all", "--replicas=0")
    try:
        kube.kubectl("delete", "tj", "deleted", f"--namespace={namespace}", "--timeout=60s")

        def children() -> str:
            return kube.kubectl(
                "get",
                "pods,configmaps,services,networkpolicies",
                f"--namespace={namespace}",
                "--output=name",
                "-l=trainwright.dev/job-name=deleted",
            )

        kube.wait_until(lambda: not children().strip(), timeout=120, describe=children)
    finally:
        if not operator_is_up:
            kube.kubectl("scale", "deployment", f"--namespace={operator}", "--all", "--replicas=1")


def test_a_typo_is_refused_at_apply(operator, namespace):
    typo = jobs.manifest("typo", optimizer={"name": "adam", "learningrate": 0.1})
    with pytest.raises(kube.CommandError, match=r"spec\.optimizer\.learningrate"):
        kube.apply(typo, namespace)
    unknown = jobs.manifest("typo", optimizer={"name": "adamm"})
    with pytest.raises(kube.CommandError, match=r"spec\.optimizer\.name"):
        kube.apply(unknown, namespace)


def test_a_running_job_refuses_what_would_change_its_work(operator, namespace):
    kube.apply(jobs.endless("fixed"), namespace)
    jobs.wait_for(namespace, "fixed", jobs.running_at(1))
    with pytest.raises(kube.CommandError, match=r"spec\.optimizer"):
        kube.apply(jobs.endless("fixed", optimizer={"name": "sgd"}), namespace)
    kube.apply(jobs.endless("fixed", activeDeadlineSeconds=3600), namespace)
    assert jobs.status(namespace, "fixed")["restarts"] == 0


def test_the_chart_is_upgraded_under_a_running_job(operator, namespace):
    kube.apply(jobs.endless("upgraded"), namespace)
    before = jobs.wait_for(namespace, "upgraded", jobs.running_at(50))
    pods = {pod["metadata"]["uid"] for pod in jobs.pods(namespace, "upgraded")}
    chart = str(kube.ROOT / "charts" / "trainwright")
    kube.helm("upgrade", "trainwright", chart, f"--namespace={operator}", "--reuse-values", "--set=log.level=debug")
    faults.await_rollout(operator)
    after = jobs.wait_for(namespace, "upgraded", jobs.running_at(before["progress"]["step"] + 1))
    assert (after["restarts"], after["attempt"]) == (0, 1)
    assert {pod["metadata"]["uid"] for pod in jobs.pods(namespace, "upgraded")} == pods


def test_of_two_operators_one_works_and_the_other_takes_over(operator, namespace):
    def scale(replicas: int) -> None:
        chart = str(kube.ROOT / "charts" / "trainwright")
        values = ["--reuse-values", f"--set=replicas={replicas}"]
        kube.helm("upgrade", "trainwright", chart, f"--namespace={operator}", *values)
        faults.await_rollout(operator)

    scale(2)
    try:
        kube.apply(jobs.endless("handed-over"), namespace)
        before = jobs.wait_for(namespace, "handed-over", jobs.running_at(20))
        killed = faults.kill_leader(operator)
        kube.wait_until(
            lambda: faults.leader(operator) not in ("", killed), timeout=60, describe=lambda: faults.leader(operator)
        )
        after = jobs.wait_for(namespace, "handed-over", jobs.running_at(before["progress"]["step"] + 1))
        assert (after["restarts"], after["attempt"]) == (0, 1)
    finally:
        scale(1)
