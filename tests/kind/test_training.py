"""A TrainingJob on a real cluster, from `kubectl apply` to its results."""

import jobs
import kube
import yaml
from prometheus_client.parser import text_string_to_metric_families


def of_job(metrics, name: str, namespace: str, job: str) -> float | None:
    labels = {("namespace", namespace), ("job", job)}
    return next((value for (metric, have), value in metrics.items() if metric == name and labels <= have), None)


def demo_job() -> dict:
    return yaml.safe_load((kube.ROOT / "manifests/examples/digits-cnn.yaml").read_text())


def test_digit_cnn_trains_on_two_nodes_and_says_so(operator, namespace):
    demo = demo_job()
    name = demo["metadata"]["name"]
    kube.apply(demo, namespace)

    jobs.wait_for(namespace, name, jobs.running_at(1), timeout=180)
    seen = of_job(jobs.operator_metrics(operator), "trainwright_job_progress_ratio", namespace, name)
    assert seen is not None
    assert 0 < seen < 1
    workers = {pod["spec"]["nodeName"] for pod in jobs.pods(namespace, name)}
    assert len(workers) == 2

    kube.kubectl(
        "wait", f"--namespace={namespace}", "--for=condition=Complete", f"tj/{name}", "--timeout=240s", timeout=260
    )
    final = jobs.status(namespace, name)
    assert final["progress"]["percent"] == 100
    assert final["metrics"]["evaluation"]["split"] == "test"
    assert final["metrics"]["evaluation"]["metrics"]["accuracy"] > 0.95
    assert final["restarts"] == 0
    assert final["checkpoints"]
    results = kube.shared_folder() / namespace / final["results"]["weights"].removeprefix("/checkpoints/")
    assert results.stat().st_size > 0

    metrics = jobs.operator_metrics(operator)
    assert of_job(metrics, "trainwright_job_progress_ratio", namespace, name) == 1
    assert metrics[("trainwright_jobs", frozenset({("phase", "Succeeded")}))] >= 1

    line = kube.kubectl("get", "tj", name, f"--namespace={namespace}").splitlines()
    assert line[0].split() == ["NAME", "STATE", "PROGRESS", "ETA", "LOSS", "WORKERS", "RESTARTS", "AGE"]
    assert line[1].split()[:3] == [name, "Succeeded", "100%"]


def test_a_network_of_ones_own_comes_from_a_config_map(operator, namespace):
    examples = kube.ROOT / "manifests/examples"
    kube.kubectl("create", "configmap", "nets", f"--from-file={examples / 'own-network'}", f"--namespace={namespace}")
    example = yaml.safe_load((examples / "own-network.yaml").read_text())
    example["spec"]["workers"] = {
        "count": 2,
        "resources": {"requests": {"cpu": "100m", "memory": "300Mi"}},
        "securityContext": {"runAsUser": 1000},
        "labels": {"team": "vision"},
        "sharedMemorySize": "64Mi",
        "env": [{"name": "TEAM", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['team']"}}}],
        "envFrom": [{"prefix": "CODE_", "configMapRef": {"name": "nets", "optional": True}}],
    }
    kube.apply(example, namespace)
    final = jobs.wait_for(namespace, "own-network", jobs.succeeded, timeout=180)
    assert final["metrics"]["evaluation"]["metrics"]["accuracy"] > 0.9


def test_a_running_job_says_how_far_it_is_and_its_workers_serve_their_own_metrics(operator, namespace):
    kube.apply(jobs.endless("onward"), namespace)
    early = jobs.wait_for(namespace, "onward", jobs.running_at(1))
    later = jobs.wait_for(namespace, "onward", jobs.running_at(early["progress"]["step"] + 1))
    assert later["progress"]["percent"] >= early["progress"]["percent"]
    assert later["progress"]["eta"]
    for pod in jobs.pods(namespace, "onward"):
        path = f"/api/v1/namespaces/{namespace}/pods/{pod['metadata']['name']}:9400/proxy/metrics"
        samples = {
            sample.name: sample.value
            for family in text_string_to_metric_families(kube.kubectl("get", "--raw", path))
            for sample in family.samples
        }
        assert samples["trainwright_worker_step"] > 0


def test_gpus_that_exist_are_given_and_the_lack_of_others_is_told(operator, namespace):
    gpu = {"limits": {"nvidia.com/gpu": "1", "memory": "1Gi"}}
    kube.apply(jobs.manifest("fits", workers={"resources": gpu}), namespace)
    jobs.wait_for(namespace, "fits", jobs.succeeded)
    for pod in jobs.pods(namespace, "fits"):
        assert pod["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"

    kube.apply(jobs.manifest("too-many", workers={"resources": {"limits": {"nvidia.com/gpu": "3"}}}), namespace)
    waiting = jobs.wait_for(namespace, "too-many", lambda now: now.get("reason") == "Unschedulable")
    assert waiting["phase"] == "Pending"
    assert "2 of 2 workers unschedulable" in waiting["message"]
    assert "Insufficient nvidia.com/gpu" in waiting["message"]


def test_a_volume_that_cannot_be_mounted_is_named(operator, namespace):
    missing = {"name": "corpus", "mountPath": "/corpus", "configMap": {"name": "no-such-corpus"}}
    kube.apply(jobs.manifest("unmounted", workers={"volumes": [missing]}), namespace)
    waiting = jobs.wait_for(namespace, "unmounted", lambda now: now.get("reason") == "FailedMount")
    assert waiting["phase"] == "Pending"
    assert 'configmap "no-such-corpus" not found' in waiting["message"]


def test_a_user_error_fails_once_and_explains_itself(operator, namespace):
    wrong = jobs.manifest("wrong", dataset={"csv": {"path": "missing.csv", "target": "y"}})
    kube.apply(wrong, namespace)
    failed = jobs.wait_for(namespace, "wrong", lambda now: now.get("phase") == "Failed")
    assert failed["restarts"] == 0
    assert failed["failure"]["category"] in ("Data", "UserError")
    assert "missing.csv" in failed["failure"]["message"]
    assert "spec.dataset.csv.path" in failed["failure"]["message"]
    described = kube.kubectl("describe", "tj", "wrong", f"--namespace={namespace}")
    assert "missing.csv" in described


def test_a_model_argument_only_the_operator_can_judge_is_a_condition(operator, namespace):
    kube.apply(jobs.manifest("args", model={"name": "mlp", "args": {"hiden": [3]}}), namespace)
    refused = jobs.wait_for(namespace, "args", lambda now: now.get("conditions"))
    accepted = next(c for c in refused["conditions"] if c["type"] == "Accepted")
    assert accepted["status"] == "False"
    assert "spec.model.args.hiden" in accepted["message"]
    assert jobs.pods(namespace, "args") == []
    kube.apply(jobs.manifest("args"), namespace)
    jobs.wait_for(namespace, "args", jobs.succeeded)
