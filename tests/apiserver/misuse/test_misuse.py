"""Wrong and hostile edits of a job that runs: each is refused or answered, and the running work is unharmed.

A case of the corpus is one edit by somebody who may edit the namespace. Its keys:

    spec, job, status    what is merged into the job's spec, into the whole job, into its status
    pod                  what is merged into the pod of worker 1
    edit, delete         the kind of child that `patch` is merged into, or that is to be deleted, which is always refused
    create               what is created: an object, or one `like` a worker or a job
    becomes              in which phase the created pod is, by its node's word
    storm, times         edits of the spec, made in turn so many times
    by                   who does it, if not an editor: an administrator
    lenient              whether nobody asked to be told of unknown fields

and of what is to come of it:

    refused              a part of what the API server says
    healed               what the status must not go on to say
    answered             which job says what instead
    otherwise            nothing changes at all: not the spec, not the pods, not the counters

Afterwards everything is put right again, and the job reports one more step, which its status must say.
"""

import asyncio
import copy
from pathlib import Path

import pytest
from kubelet import FakeKubelet
from manifests import job

from trainwright.manifests import load

from .scene import NAME, Scene

CORPUS = Path(__file__).with_name("corpus")
MEGABYTE = "a" * 2**20
LARGE = {
    "$HUNDRED": "a" * 100,
    "$TWO_HUNDRED_KIB": "a" * 200 * 2**10,
    "$MEGABYTE": MEGABYTE,
    "$FOUR_MEGABYTES": MEGABYTE * 4,
    "$MANY_VARIABLES": [{"name": f"A{number}", "value": "x"} for number in range(10_000)],
    "$MANY_LAYERS": [{"dense": {"units": 1}}] * 10_000,
    "$MANY_OBJECTS": [{}] * 250_000,
    "$MANY_LABELS": {f"label-{number}": "x" for number in range(1000)},
}
KEYS = {
    *("name", "spec", "job", "status", "pod", "edit", "patch", "delete", "create", "becomes", "storm", "times"),
    *("by", "lenient", "refused", "healed", "answered"),
}


def cases(topic):
    (found,) = load((CORPUS / f"{topic}.yaml").read_text())
    for case in found:
        assert set(case) <= KEYS, f"{case['name']}: unknown keys {set(case) - KEYS}"
    return found


TOPICS = sorted(path.stem for path in CORPUS.glob("*.yaml"))


def test_the_corpus_is_large_and_its_names_are_unlike():
    for topic in TOPICS:
        names = [case["name"] for case in cases(topic)]
        assert len(names) == len(set(names)), sorted(names)
    assert sum(len(cases(topic)) for topic in TOPICS) >= 150


class Edit:
    """One case, done and undone on a scene."""

    def __init__(self, scene, person, case):
        self.scene, self.person, self.case = scene, person, case
        self.created = None
        self.names = {
            "$NAME": NAME,
            "$UID": scene.uid,
            "$COMPANION": scene.companion("Service"),
            "$HUNDRED_LETTERS": "a" * 100,
        }

    def fill(self, value):
        """Return the value with names and large values put in."""
        if isinstance(value, dict):
            return {self.fill(key): self.fill(item) for key, item in value.items()}
        if isinstance(value, list):
            return [self.fill(item) for item in value]
        if not isinstance(value, str):
            return value
        if value in LARGE:
            return LARGE[value]
        for name, text in sorted(self.names.items(), reverse=True):
            value = value.replace(name, text)
        return value

    async def do(self):
        """Return what the API server says to it."""
        case, scene, lenient = self.case, self.scene, self.case.get("lenient", False)
        job_path = scene.path("TrainingJob", NAME)
        if "status" in case:
            return await self.person.merge(f"{job_path}/status", {"status": self.fill(case["status"])})
        if "pod" in case:
            path = scene.path("Pod", scene.pods[1]["metadata"]["name"])
            return await self.person.merge(path, self.fill(case["pod"]))
        if "edit" in case:
            return await self.person.merge(
                scene.path(case["edit"], scene.companion(case["edit"])), self.fill(case["patch"])
            )
        if "delete" in case:
            return await self.person.delete(scene.path(case["delete"], scene.companion(case["delete"])))
        if "create" in case:
            return await self.create()
        if "storm" in case:
            for _ in range(case["times"]):
                for spec in case["storm"]:
                    answer = await self.person.merge(job_path, {"spec": spec})
            return answer
        patch = case["job"] if "job" in case else {"spec": case["spec"]}
        return await self.person.merge(job_path, self.fill(patch), lenient=lenient)

    async def create(self):
        wanted = self.fill(self.case["create"])
        like = wanted.get("like")
        manifest = wanted if like is None else self.worker(wanted) if like == "worker" else self.job(wanted)
        answer = await self.person.create(self.scene.path(manifest["kind"]), manifest)
        if not answer.refused:
            self.created = manifest["kind"], manifest["metadata"]["name"]
            if "becomes" in self.case:
                phase = self.case["becomes"]
                code = {"Succeeded": 0, "Failed": 1}.get(phase)
                await self.scene.kubelet.set(answer.body, phase, exit_code=code)
        return answer

    def worker(self, wanted):
        model = self.scene.pods[0]
        meta = {"name": wanted["name"], "labels": wanted.get("labels", model["metadata"]["labels"])}
        if "owner" not in wanted:
            meta["ownerReferences"] = model["metadata"]["ownerReferences"]
        return {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": meta,
            "spec": {"serviceAccountName": "default", "containers": [{"name": "worker", "image": "none"}]},
        }

    def job(self, wanted):
        manifest = job(self.scene.namespace, wanted["name"])
        manifest["spec"] |= wanted.get("spec", {})
        return manifest | ({"status": wanted["status"]} if "status" in wanted else {})

    async def undo(self):
        """Put everything right again."""
        scene, administrator = self.scene, self.scene.administrator
        if self.created is not None:
            await administrator.delete(scene.path(*self.created))
            for pod in await scene.kubelet.pods(self.created[1]) if self.created[0] == "TrainingJob" else ():
                await administrator.delete(scene.path("Pod", pod["metadata"]["name"]))
        await scene.restore()
        worker = scene.pods[1]["metadata"]
        labels = {**dict.fromkeys((await self.labels()) - set(worker["labels"])), **worker["labels"]}
        mended = {"labels": labels, "finalizers": None, "ownerReferences": worker["ownerReferences"]}
        await administrator.merge(scene.path("Pod", worker["name"]), {"metadata": {**mended, "annotations": None}})

    async def labels(self):
        path = self.scene.path("Pod", self.scene.pods[1]["metadata"]["name"])
        return set((await self.scene.administrator.get(path)).body["metadata"].get("labels") or {})


async def verdict(edit):
    """Do and undo the edit, and return what is wrong with how it was taken, or None."""
    case, scene = edit.case, edit.scene
    before = await scene.job()
    answer = await edit.do()
    problems = []
    if "refused" in case:
        if not answer.refused:
            problems.append("it is not refused")
        elif case["refused"] not in answer.message:
            problems.append(f"it is refused without a word of {case['refused']!r}: {answer.message[:300]}")
    elif answer.refused:
        problems.append(f"it is refused: {answer.code} {answer.message[:300]}")
    try:
        if "answered" in case and not answer.refused:
            await answered(scene, case["answered"])
        await scene.pulse()
        if "healed" in case and contains((await scene.job())["status"], case["healed"]):
            problems.append("the status still says so")
        if answer.refused or case.get("lenient"):
            problems += [] if (await scene.job())["spec"] == before["spec"] else ["the spec has changed"]
    except AssertionError as error:
        problems.append(str(error)[:1500])
    problems += [harm] if (harm := await scene.harm()) else []
    await edit.undo()
    return f"{case['name']}: {'; '.join(problems)}" if problems else None


def contains(status, part):
    if isinstance(part, dict):
        return isinstance(status, dict) and all(contains(status.get(key), value) for key, value in part.items())
    return status == part


async def answered(scene, wanted):
    def holds(status):
        if "condition" not in wanted:
            return status.get("reason") == wanted["reason"]
        return any(
            (entry["type"], entry["status"], entry["reason"])
            == (wanted["condition"], wanted["status"], wanted["reason"])
            for entry in status.get("conditions", ())
        )

    await scene.kubelet.until_status(wanted["job"], holds, seconds=15)


@pytest.mark.usefixtures("admission")
@pytest.mark.parametrize("topic", TOPICS)
async def test_running_work_is_unharmed(topic, server, namespace, administrator, editor, start_operator):
    operator = start_operator(status_interval=0.05, status_rate=1000)
    scene = Scene(administrator, FakeKubelet(server, namespace), namespace, operator.reports_port)
    await scene.start()
    wrong = []
    for case in cases(topic):
        person = administrator if case.get("by") == "administrator" else editor
        problem = await verdict(Edit(scene, person, copy.deepcopy(case)))
        if problem:
            wrong.append(problem)
            if await scene.harm():
                break  # what comes after that says nothing
    assert not wrong, "\n".join(wrong)
    await scene.end()


async def test_a_storm_of_suspensions_ends_in_one_crew(server, namespace, administrator, editor, start_operator):
    operator = start_operator(status_interval=0.05, status_rate=1000)
    scene = Scene(administrator, FakeKubelet(server, namespace), namespace, operator.reports_port)
    await scene.start()
    path, kubelet = scene.path("TrainingJob", NAME), scene.kubelet
    for number in range(41):
        answer = await editor.merge(path, {"spec": {"suspend": number % 2 == 0}})
        assert not answer.refused
        if number % 8 == 0:
            await kubelet.finish_deletions(NAME)
    await editor.merge(path, {"spec": {"suspend": False}})

    def one_crew(pods):
        live = [pod for pod in pods if "deletionTimestamp" not in pod["metadata"]]
        indices = {pod["metadata"]["labels"]["trainwright.dev/worker-index"] for pod in live}
        return len(live) == len(pods) == 2 and len(indices) == 2

    for _ in range(100):
        await kubelet.finish_deletions(NAME)
        status, pods = await kubelet.status(NAME), await kubelet.pods(NAME)
        attempts = {int(pod["metadata"]["labels"]["trainwright.dev/attempt"]) for pod in pods}
        if one_crew(pods) and attempts == {status.get("attempt")} and status.get("phase") != "Suspended":
            break
        await asyncio.sleep(0.1)
    scene.pods = await kubelet.until_pods(NAME, one_crew)
    for pod in scene.pods:
        await kubelet.set(pod, "Running")
    await scene.end()
    assert (await kubelet.status(NAME))["restarts"] == 0
