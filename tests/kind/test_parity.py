"""What pydantic accepts is what the API server accepts: every manifest of the corpus, and every change to a started job.

The manifests go to the API server as YAML in a dry run with strict field validation, as `kubectl apply` sends them.
"""

import json
import secrets
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections import Counter
from random import Random

import kube
import pytest

import parity
from trainwright.manifests import dump, load

EXAMPLES = sorted((kube.ROOT / "manifests" / "examples").glob("*.yaml"))
API = "/apis/trainwright.dev/v1alpha1/namespaces/{namespace}/trainingjobs"


@pytest.fixture(scope="module")
def api(cluster):
    """Send a text to a path of the API server and return its answer, whether it is an error or not."""
    command = ["kubectl", "proxy", "--port=0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=kube.environment()) as proxy:
        address = proxy.stdout.readline().split()[-1]

        def call(method, path, text=None, content_type="application/yaml", **query):
            request = urllib.request.Request(
                f"http://{address}{path}?{urllib.parse.urlencode(query)}",
                method=method,
                data=None if text is None else text.encode(),
                headers={"Content-Type": content_type, "Accept": "application/json"},
            )
            try:
                with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310 - kubectl's own address
                    return json.load(answer)
            except urllib.error.HTTPError as error:
                return json.load(error)

        yield call
        proxy.terminate()


@pytest.fixture(scope="module")
def namespace(operator):
    """A namespace in which nothing is created but the jobs of the update tests. The CRD is the chart's."""
    name = f"parity-{secrets.token_hex(2)}"
    kube.apply(f"{{apiVersion: v1, kind: Namespace, metadata: {{name: {name}}}}}")
    yield name
    kube.kubectl("delete", "namespace", name, "--wait=false")


@pytest.fixture(scope="module")
def refusal(namespace, api):
    """Return what the API server has against a text, or None."""

    def send(text):
        answer = api("POST", API.format(namespace=namespace), text, dryRun="All", fieldValidation="Strict")
        return None if answer.get("kind") == "TrainingJob" else answer["message"]

    return send


@pytest.mark.parametrize("case", parity.cases(), ids=lambda case: case.name)
def test_the_api_server_agrees(case, refusal):
    said = refusal(case.text if case.text is not None else dump(case.manifest))
    if case.wrong is None or case.operator_only:
        assert said is None
    else:
        assert said is not None, "the API server accepts this"
        assert (case.server or case.wrong) in said


def test_the_api_server_agrees_on_random_changes(refusal):
    """Of a thousand changed manifests, some are still good; what one side accepts, the other does too."""
    random = Random(1)
    good = [case.manifest for case in parity.cases() if case.wrong is None and case.text is None]
    verdicts = Counter()
    for _ in range(1000):
        text = dump(parity.mutant(random, good))
        said, mistakes = refusal(text), parity.mistakes(load(text)[0])
        only_ours = ("spec.model.args", "spec.workers.resources.requests.")
        if said is None and all(field.startswith(only_ours) for field in mistakes):
            mistakes = {}  # what only the operator can know
        assert (said is None) == (not mistakes), f"{said}\n{mistakes}\n{text}"
        verdicts[said is None] += 1
    assert verdicts[True] >= 40
    assert verdicts[False] >= 400


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_the_api_server_accepts_the_examples(path, refusal):
    for document in load(path.read_text()):
        assert refusal(dump(document)) is None


@pytest.mark.parametrize("update", parity.updates(), ids=lambda update: update.name)
def test_changes_to_a_started_job(update, namespace, api):
    path = API.format(namespace=namespace)
    manifest = parity.job()
    # The operator that runs leaves a suspended job alone; it is we who say that it was started.
    manifest["spec"] |= {"suspend": True} | update.was
    manifest["metadata"] = {"generateName": "update-"}
    created = api("POST", path, dump(manifest), fieldValidation="Strict")
    name = created["metadata"]["name"]
    patch = "application/merge-patch+json"
    started = api("PATCH", f"{path}/{name}/status", json.dumps({"status": {"attempt": 1}}), content_type=patch)
    assert started["status"]["attempt"] == 1
    answer = api("PATCH", f"{path}/{name}", json.dumps({"spec": update.change}), content_type=patch, dryRun="All")
    api("DELETE", f"{path}/{name}")
    if update.wrong is None:
        assert answer["kind"] == "TrainingJob", answer
    else:
        assert answer["reason"] == "Invalid"
        (cause,) = answer["details"]["causes"]
        assert cause["field"] == "spec"
        named = cause["message"].partition("cannot change after the first start (create a new job instead): ")[2]
        assert named.split() == [update.wrong]


def test_before_the_first_start_everything_may_change(namespace, api):
    path = API.format(namespace=namespace)
    manifest = parity.job("not-started")
    manifest["spec"]["suspend"] = True
    assert api("POST", path, dump(manifest))["kind"] == "TrainingJob"
    for update in parity.updates():
        answer = api(
            "PATCH",
            f"{path}/not-started",
            json.dumps({"spec": update.change}),
            content_type="application/merge-patch+json",
            dryRun="All",
        )
        # What still fails must fail for another reason than the change itself.
        assert "cannot change" not in answer.get("message", "")
    api("DELETE", f"{path}/not-started")
