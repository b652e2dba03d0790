"""What the operator as a whole has done. First of all tests here: those that share the cluster have kept it busy before."""

import jobs
import kube


def test_it_was_never_forbidden_anything(operator):
    """Whatever the tests before made it do, its rights were enough."""
    log = kube.kubectl("logs", "deployment/trainwright", f"--namespace={operator}", "--tail=-1")
    # "unable to create new content in namespace ... being terminated" is another matter.
    assert [line for line in log.splitlines() if "forbidden: User" in line.replace("\\", "")] == []


def test_an_undisturbed_job_costs_few_writes(operator, namespace):
    """At most N + 8, counted by the operator itself over one whole life of a job of 2 workers."""

    def writes() -> float:
        return sum(
            value
            for (metric, labels), value in jobs.operator_metrics(operator).items()
            if metric == "trainwright_api_requests_total"
            and dict(labels)["verb"] in ("create", "update", "patch", "delete")
            and dict(labels)["resource"] not in ("leases", "tokenreviews")
        )

    before = writes()
    kube.apply(jobs.manifest("cheap"), namespace)
    jobs.wait_for(namespace, "cheap", jobs.succeeded)
    assert writes() - before <= 2 + 8
