"""TrainingClasses on a real API server: what admission refuses, and what the operator does by itself."""

import asyncio
from contextlib import asynccontextmanager

import pytest
from allowlists import CASES, DEFAULTS
from definitions import JOBS
from kubelet import FakeKubelet
from manifests import job

from trainwright.cluster.kubernetes import KubernetesCluster

CLASSES = "/apis/trainwright.dev/v1alpha1/trainingclasses"
BINDINGS = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicybindings"
BINDING = "trainingclasses.trainwright.dev"
GPU = {"limits": {"nvidia.com/gpu": 2}}


def _class(name, **spec):
    return {
        "apiVersion": "trainwright.dev/v1alpha1",
        "kind": "TrainingClass",
        "metadata": {"name": name},
        "spec": spec,
    }


def _job(namespace, name, workers, **spec):
    manifest = job(namespace, name, **spec)
    manifest["spec"]["workers"] |= workers
    return manifest


@pytest.fixture
async def make_class(administrator, namespace):
    """Create or replace a class that only this test's jobs can name; it is deleted at the end."""
    made = set()

    async def make(name="gold", **spec):
        named = f"{namespace}-{name}"
        if named in made:
            found = (await administrator.get(f"{CLASSES}/{named}")).body
            answer = await administrator.replace(f"{CLASSES}/{named}", {**found, "spec": spec})
        else:
            answer = await administrator.create(CLASSES, _class(named, **spec))
        assert not answer.refused, answer.message
        made.add(named)
        return named

    yield make
    for name in made:
        await administrator.delete(f"{CLASSES}/{name}")


@asynccontextmanager
async def _without_policy(administrator):
    """Take the admission policy of classes out of force, and put it back."""
    kept = (await administrator.get(f"{BINDINGS}/{BINDING}")).body
    assert not (await administrator.delete(f"{BINDINGS}/{BINDING}")).refused
    try:
        yield
    finally:
        fresh = {**kept, "metadata": {"name": BINDING}}
        assert not (await administrator.create(BINDINGS, fresh)).refused


async def _until_refused(administrator, namespace, manifest):
    """Return why the API server refuses a job, once the policy knows the newest class."""
    path = f"{JOBS.format(namespace=namespace)}?dryRun=All"
    async with asyncio.timeout(30):
        while not (answer := await administrator.create(path, manifest)).refused:  # noqa: ASYNC110 - the server is another process
            await asyncio.sleep(0.1)
    return answer.message


@pytest.fixture
def kubelet(server, namespace):
    return FakeKubelet(server, namespace)


async def test_admission_says_of_every_allowlist_what_the_operator_says(administrator, namespace, make_class):
    """All classes first, so that the policy has to learn of them only once."""
    names = [
        await make_class(f"case-{number}", allowed=allowed, defaults=DEFAULTS)
        for number, (allowed, *_) in enumerate(CASES)
    ]
    last = await make_class("last", limits={"perJob": {"workers": 1}})
    large = job(namespace, "large", workers=2, **{"class": last})
    said = await _until_refused(administrator, namespace, large)
    assert f"spec.workers.count: 2 workers are more than the 1 that TrainingClass {last} allows a job" in said
    path = f"{JOBS.format(namespace=namespace)}?dryRun=All"
    for name, (_, workers, more, refused) in zip(names, CASES, strict=True):
        manifest = _job(namespace, "case", workers, **{"class": name, **more})
        answer = await administrator.create(path, manifest)
        if refused is None:
            assert not answer.refused, (workers, more, answer.message)
        else:
            assert refused in answer.message, (workers, more)
            assert f"TrainingClass {name}" in answer.message


async def test_admission_finds_the_class_by_the_label_of_the_namespace(administrator, namespace, make_class):
    name = await make_class(namespaces=["nowhere"])
    label = {"metadata": {"labels": {"trainwright.dev/class": name}}}
    assert not (await administrator.merge(f"/api/v1/namespaces/{namespace}", label)).refused
    said = await _until_refused(administrator, namespace, job(namespace))
    assert f"TrainingClass {name} is not for namespace {namespace}, but for nowhere" in said
    other = await make_class("other")
    answer = await administrator.create(
        f"{JOBS.format(namespace=namespace)}?dryRun=All", job(namespace, **{"class": other})
    )
    assert not answer.refused, answer.message


async def test_a_class_with_a_mistake_is_refused(administrator):
    both = {"checkpoint": {"persistentVolumeClaim": "a", "uri": "s3://bucket/b"}}
    answer = await administrator.create(f"{CLASSES}?dryRun=All", _class("both", defaults=both))
    assert "set at most one of persistentVolumeClaim, uri" in answer.message
    reserved = {"labels": {"trainwright.dev/job-name": "other"}}
    answer = await administrator.create(f"{CLASSES}?dryRun=All", _class("reserved", pods=reserved))
    assert "keys that begin with trainwright.dev/ are reserved" in answer.message
    answer = await administrator.create(f"{CLASSES}?dryRun=All", _class("typo", limit={}))
    assert 'unknown field "spec.limit"' in answer.message


async def test_the_operator_fills_in_refuses_and_leaves_started_jobs_alone(
    administrator, server, namespace, kubelet, start_operator, make_class
):
    start_operator()
    cluster = KubernetesCluster(server)
    defaults = {"workers": {"image": "filled:1", "nodeSelector": {"pool": "a"}}, "ttlSecondsAfterFinished": 3600}
    pods = {"labels": {"team": "vision"}, "envFrom": [{"configMapRef": {"name": "proxy", "optional": True}}]}
    name = await make_class(defaults=defaults, pods=pods)
    await cluster.create(job(namespace, "first", **{"class": name}))
    (pod,) = await kubelet.until_pods("first", lambda pods: len(pods) == 1)
    whole = (await administrator.get(f"/api/v1/namespaces/{namespace}/pods/{pod['metadata']['name']}")).body
    assert whole["spec"]["containers"][0]["image"] == "filled:1"
    assert whole["spec"]["nodeSelector"] == {"pool": "a"}
    assert whole["metadata"]["labels"]["team"] == "vision"
    assert whole["spec"]["containers"][0]["envFrom"] == [{"configMapRef": {"name": "proxy", "optional": True}}]
    stored = await kubelet.job("first")
    assert "image" not in stored["spec"]["workers"]
    filled = {
        "ttlSecondsAfterFinished": "3600",
        "workers.image": '"filled:1"',
        "workers.nodeSelector": '{"pool": "a"}',
    }
    assert stored["status"]["class"]["name"] == name
    assert stored["status"]["class"]["filled"] == filled
    # The class changes while the job runs: a pod that is replaced is still made from what was recorded.
    await make_class(defaults={"workers": {"image": "changed:2"}}, allowed={"priorityClasses": [], "images": []})
    await kubelet.set(pod, "Running")
    await kubelet.set(pod, "Failed", exit_code=69)
    await kubelet.until_pods("first", lambda pods: any(p["metadata"]["name"] == "first-0-2" for p in pods))
    again = (await administrator.get(f"/api/v1/namespaces/{namespace}/pods/first-0-2")).body
    assert again["spec"]["containers"][0]["image"] == "filled:1"
    # An edit of where its workers run is checked against the class as it is now; other edits are not.
    path = f"{JOBS.format(namespace=namespace)}/first"
    assert not (await administrator.merge(path, {"spec": {"suspend": True}})).refused
    said = (await administrator.merge(path, {"spec": {"workers": {"image": "other"}}})).message
    assert f"spec.workers.image: other is not allowed by TrainingClass {name}" in said
    # Somebody removes the policy: the operator refuses by itself.
    async with _without_policy(administrator):
        urgent = _job(namespace, "second", {"priorityClassName": "urgent"}, **{"class": name})
        async with asyncio.timeout(30):
            while (await administrator.create(JOBS.format(namespace=namespace), urgent)).refused:  # noqa: ASYNC110 - the server is another process
                await asyncio.sleep(0.1)
        status = await kubelet.until_status("second", lambda s: s.get("reason") == "NotAllowed")
        assert f"spec.workers.priorityClassName: urgent is not allowed by TrainingClass {name}" in status["message"]
        await cluster.create(job(namespace, "third", **{"class": "absent"}))
        status = await kubelet.until_status("third", lambda s: s.get("reason") == "ClassNotFound")
        assert name in status["message"]
    # Corrected, it is accepted without any other event: classes are looked at again every few seconds.
    await make_class(defaults={"workers": {"image": "changed:2"}})
    await kubelet.until_status("second", lambda s: s.get("attempt") == 1)


async def test_jobs_of_a_full_namespace_start_one_after_the_other(
    server, namespace, kubelet, start_operator, make_class
):
    name = await make_class(limits={"perNamespace": {"gpus": 4}})
    cluster = KubernetesCluster(server)
    jobs = [f"job-{number}" for number in range(5)]
    each_needs = {"resources": GPU}
    await asyncio.gather(*(cluster.create(_job(namespace, each, each_needs, **{"class": name})) for each in jobs))
    start_operator()
    for each in jobs:
        await kubelet.until_status(each, lambda s: s.get("phase") in ("Pending", "Queued"))
    ended = []
    async with asyncio.timeout(60):
        while len(ended) < len(jobs):
            states = {each: await kubelet.status(each) for each in jobs}
            running = [each for each in jobs if states[each].get("attempt") and states[each]["phase"] != "Succeeded"]
            assert len(running) <= 2, states
            held = [states[each]["message"] for each in jobs if states[each]["phase"] == "Queued"]
            assert all(f"of 4 GPUs of class {name}" in message for message in held)
            for each in running[:1]:
                (pod,) = await kubelet.until_pods(each, lambda pods: len(pods) == 1)
                await kubelet.set(pod, "Succeeded", exit_code=0)
                await kubelet.until_status(each, lambda s: s.get("phase") == "Succeeded")
                ended.append(each)
            await asyncio.sleep(0.05)
    assert sorted(ended) == jobs
