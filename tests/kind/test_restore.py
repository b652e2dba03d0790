"""A job that is deleted and restored from a backup, together with a pod that should have been left out of it."""

import guides
import jobs
import kube


def test_a_restored_job_goes_on_where_it_was(operator, namespace, tmp_path):
    def follow(containing: str, **examples: str) -> None:
        guides.run(guides.commands("backup.md", containing, examples), tmp_path, **kube.environment())

    kube.apply(jobs.endless("moved"), namespace)
    before = jobs.wait_for(namespace, "moved", lambda now: now.get("checkpoints"))
    follow("> jobs.json", **{"team-a": namespace})
    pod = jobs.pod(namespace, "moved-0-1")
    kube.kubectl("delete", "tj", "moved", f"--namespace={namespace}", "--timeout=60s")
    jobs.wait_until_nothing_is_left(namespace, "moved")

    kept = {field: pod["metadata"][field] for field in ("name", "labels", "annotations", "ownerReferences")}
    kube.apply({**pod, "metadata": kept, "spec": {**pod["spec"], "nodeName": ""}}, namespace)
    left_behind = jobs.uids(namespace, "moved")
    follow("kubectl create")
    after = jobs.wait_for(namespace, "moved", lambda now: now.get("progress", {}).get("resumedFromStep"))
    assert after["progress"]["resumedFromStep"] >= before["checkpoints"][-1]["step"]
    assert after["restarts"] == 0
    assert not left_behind & jobs.uids(namespace, "moved")
    final = jobs.wait_for(namespace, "moved", jobs.running_at(after["progress"]["resumedFromStep"] + 1))
    uid = jobs.get(namespace, "moved")["metadata"]["uid"]
    saved = jobs.wait_for(namespace, "moved", lambda now: now.get("checkpoints"))["checkpoints"]
    assert all(f"/moved-{uid}/" in checkpoint["path"] for checkpoint in saved)
    assert final["progress"]["replayedSteps"] == 0
