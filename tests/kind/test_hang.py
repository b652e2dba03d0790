"""A rank that hangs, on a cluster: what the status says, and that the job goes on in its pods."""

import jobs
import kube

# The kernel's name of a training process is rank-<number within its worker>.
_STOP_RANK = """
import os, pathlib, signal
for comm in pathlib.Path("/proc").glob("[0-9]*/comm"):
    if comm.read_text().startswith("rank-0"):
        os.kill(int(comm.parent.name), signal.SIGSTOP)
"""


def test_a_stopped_rank_is_named_and_started_again_in_its_pod(operator, namespace):
    kube.apply(jobs.endless("hang", health={"hang": {"minSeconds": 6}}), namespace)
    before = jobs.wait_for(namespace, "hang", lambda now: jobs.running_at(200)(now) and now.get("checkpoints"))
    pods = {pod["metadata"]["uid"] for pod in jobs.pods(namespace, "hang")}
    kube.kubectl("exec", f"--namespace={namespace}", "hang-1-1", "--", "python", "-c", _STOP_RANK)
    after = jobs.wait_for(
        namespace, "hang", lambda now: now.get("restarts") == 1 and jobs.running_at(before["progress"]["step"])(now)
    )
    failure = after["failure"]
    assert (failure["category"], failure["worker"], failure["rank"], failure["exitCode"]) == ("Hang", 1, 1, 72)
    assert failure["node"]
    assert "the process is stopped (SIGSTOP)" in failure["message"]
    assert (after["attempt"], after["progress"]["resumedFromStep"] > 0) == (1, True)
    assert {pod["metadata"]["uid"] for pod in jobs.pods(namespace, "hang")} == pods
    assert "its stacks:" in kube.kubectl("logs", f"--namespace={namespace}", "hang-0-1")
    events = kube.kubectl("get", "events", f"--namespace={namespace}", "--field-selector=reason=Relaunched")
    assert "hang" in events
