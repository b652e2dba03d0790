"""The commands of the guides, run in order as a reader would, against an API server on which nothing is installed.

No controller runs there, so no pod is ever started: what needs one (`rollout status`, `helm test`) is left to the kind tests.
"""

import json
import shutil

import guides
import pytest
from manifests import job

MISSING = guides.lacks("kubectl", "helm", "jq")
pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}")

REGISTRY = "registry.example.com/mirror"
TIME = "2026-01-02T03:04:05Z"


@pytest.fixture(scope="module")
def reader(empty_server, tmp_path_factory):
    """Somebody who follows the guides in a checkout, and types a command of their own now and then."""
    folder = tmp_path_factory.mktemp("reader")
    for name in ("charts", "manifests", "constraints"):
        shutil.copytree(guides.ROOT / name, folder / name)
    environment = {
        "KUBECONFIG": str(empty_server.kubeconfig),
        "HELM_CACHE_HOME": str(folder / "helm"),
        "REGISTRY_PASSWORD": "secret",
        # A proxy that is not there: whoever asks a host of the internet fails.
        "HTTPS_PROXY": "http://127.0.0.1:1",
        "HTTP_PROXY": "http://127.0.0.1:1",
        "NO_PROXY": "127.0.0.1",
    }

    def follow(page, containing):
        return guides.run(guides.commands(page, containing), folder, **environment)

    follow.folder = folder
    follow.types = lambda command: guides.run(command, folder, **environment)
    return follow


def images(reader):
    objects = reader.types("kubectl get deployments,configmaps --namespace trainwright-system --output json")
    for item in json.loads(objects)["items"]:
        if item["kind"] == "Deployment":
            pod = item["spec"]["template"]["spec"]
            yield from (container["image"] for container in pod["containers"])
        elif "TRAINWRIGHT_WORKER_IMAGE" in item["data"]:
            yield item["data"]["TRAINWRIGHT_WORKER_IMAGE"]


def test_install_upgrade_and_roll_back_without_internet(reader):
    reader.types("kubectl create namespace team-a && kubectl create serviceaccount default --namespace team-a")
    reader("air-gapped.md", "helm package")
    reader("air-gapped.md", "create secret docker-registry")
    account = json.loads(reader.types("kubectl get serviceaccount default --namespace team-a --output json"))
    assert account["imagePullSecrets"] == [{"name": "registry"}]
    reader("air-gapped.md", "helm install")
    pushed = {f"{REGISTRY}/trainwright/{image}:0.1.0" for image in ("operator", "worker")}
    assert set(images(reader)) == pushed
    secrets = "kubectl get deployment trainwright --namespace trainwright-system --output jsonpath={..imagePullSecrets}"
    assert json.loads(reader.types(secrets)) == [{"name": "registry"}]
    assert f"docker push {REGISTRY}/trainwright/$image:0.1.0" in guides.commands("air-gapped.md", "docker push")

    # A later chart: another version, and a default that has changed.
    later = (
        "sed -i 's/^appVersion: .*/appVersion: 0.2.0/; s/^version: .*/version: 0.2.0/' charts/trainwright/Chart.yaml"
    )
    reader.types(
        f"{later}; sed -i 's/^reportIntervalSeconds: .*/reportIntervalSeconds: 5/' charts/trainwright/values.yaml"
    )
    reader("upgrading.md", "--dry-run=server")
    assert set(images(reader)) == pushed, "a preview changes nothing"
    assert f"{REGISTRY}/trainwright/operator:0.2.0" in reader.types("cat preview.txt")
    reader("upgrading.md", "--reset-then-reuse-values\n")
    assert set(images(reader)) == {image.replace("0.1.0", "0.2.0") for image in pushed}
    settings = "kubectl get configmap trainwright --namespace trainwright-system --output json"
    assert json.loads(reader.types(settings))["data"]["TRAINWRIGHT_REPORT_INTERVAL"] == "5"
    assert reader("upgrading.md", "raw-output") == ""
    refused = {"type": "Accepted", "status": "False", "reason": "InvalidSpec", "message": "spec.model: unknown"}
    status = {"status": {"message": "spec.model: unknown", "conditions": [{**refused, "lastTransitionTime": TIME}]}}
    (reader.folder / "status.json").write_text(json.dumps(status))
    (reader.folder / "job.json").write_text(json.dumps(job("team-a")))
    reader.types("kubectl create -f job.json")
    reader.types("kubectl patch tj digits -n team-a --subresource=status --type=merge --patch-file status.json")
    assert reader("upgrading.md", "raw-output") == "team-a/digits: spec.model: unknown\n"
    reader("upgrading.md", "helm rollback")
    assert set(images(reader)) == pushed
    reader("supply-chain.md", "image.operator.digest")
    assert all(image.startswith(f"{REGISTRY}/trainwright/") and "@sha256:" in image for image in images(reader))
    reader("upgrading.md", "kubectl apply --server-side")
    reader.types("helm uninstall trainwright --namespace trainwright-system")
    assert reader.types("kubectl get tj --namespace team-a --output name") == "trainingjob.trainwright.dev/digits\n"
