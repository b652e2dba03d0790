"""What pydantic accepts is what the API server accepts: every manifest of the corpus, and every change to a started job.

The manifests go to the API server as YAML in a dry run with strict field validation, as `kubectl apply` sends them.
"""

import itertools
from collections import Counter
from pathlib import Path
from random import Random

import pytest
from definitions import JOBS

import parity
from trainwright.manifests import dump, load

EXAMPLES = sorted((Path(__file__).resolve().parents[2] / "manifests" / "examples").glob("*.yaml"))
NAMES = (f"update-{number}" for number in itertools.count())


@pytest.fixture
def jobs(namespace):
    return JOBS.format(namespace=namespace)


@pytest.fixture
def refusal(administrator):
    """Return what the API server has against a text, or None."""

    async def send(text):
        answer = await administrator.try_yaml(JOBS.format(namespace="default"), text)
        return answer.message if answer.refused else None

    return send


@pytest.mark.parametrize("case", parity.cases(), ids=lambda case: case.name)
async def test_the_api_server_agrees(case, refusal):
    said = await refusal(case.text if case.text is not None else dump(case.manifest))
    if case.wrong is None or case.operator_only:
        assert said is None
    else:
        assert said is not None, "the API server accepts this"
        assert (case.server or case.wrong) in said


async def test_the_api_server_agrees_on_random_changes(refusal):
    """Of a thousand changed manifests, some are still good; what one side accepts, the other does too."""
    random = Random(1)
    good = [case.manifest for case in parity.cases() if case.wrong is None and case.text is None]
    verdicts = Counter()
    for _ in range(1000):
        text = dump(parity.mutant(random, good))
        said, mistakes = await refusal(text), parity.mistakes(load(text)[0])
        only_ours = ("spec.model.args", "spec.workers.resources.requests.")
        if said is None and all(field.startswith(only_ours) for field in mistakes):
            mistakes = {}  # what only the operator can know
        assert (said is None) == (not mistakes), f"{said}\n{mistakes}\n{text}"
        assert said is None or "expression" not in said, said  # a rule that cannot be evaluated names no field
        verdicts[said is None] += 1
    assert verdicts[True] >= 40
    assert verdicts[False] >= 400


async def test_every_mistake_is_told_at_once(refusal):
    manifest = parity.job()
    manifest["spec"] |= {"loss": {"name": "mse"}, "model": {"layers": [{"flatten": {}}, {}]}}
    manifest["spec"]["optimizer"] = {"betas": [0.9, 0.99], "name": "sgd"}
    said = await refusal(dump(manifest))
    for field in ("spec.loss.name: ", "spec.model.layers[1]: ", "spec.optimizer.betas: "):
        assert field in said


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
async def test_the_api_server_accepts_the_examples(path, refusal):
    for document in load(path.read_text()):
        assert await refusal(dump(document)) is None


RUNNING = {"attempt": 1, "phase": "Running", "progress": {"launch": "1-a"}}
WAITING = {"attempt": 1, "phase": "Pending"}
SUSPENDED = {**RUNNING, "phase": "Suspended"}
REFUSALS = {
    True: "can change only while the job is suspended: set spec.suspend: true, in the same edit or before",
    False: "cannot change after the first start (create a new job instead)",
}


async def start(administrator, jobs, changed, status=RUNNING):
    """Create a job as the API server has it once its workers were started, and return its path."""
    manifest = parity.job(next(NAMES))
    manifest["spec"] |= changed
    path = f"{jobs}/{manifest['metadata']['name']}"
    assert not (await administrator.create(jobs, manifest)).refused
    started = await administrator.merge(f"{path}/status", {"status": status})
    assert started.body["status"]["attempt"] == 1
    return path


@pytest.mark.parametrize("update", parity.updates(), ids=lambda update: update.name)
async def test_changes_to_a_started_job(update, administrator, jobs):
    path = await start(administrator, jobs, update.was)
    answer = await administrator.merge(path, {"spec": update.change})
    if update.wrong is None:
        assert not answer.refused, answer.message
    else:
        assert answer.body["reason"] == "Invalid"
        said = answer.message.partition(" denied request: ")[2]
        assert said == f"{update.wrong} {REFUSALS[update.is_placement]}"


@pytest.mark.parametrize("status", [WAITING, SUSPENDED], ids=["waiting", "suspended"])
async def test_placement_may_change_while_no_worker_runs(status, administrator, jobs):
    for update in parity.updates():
        path = await start(administrator, jobs, update.was, status)
        answer = await administrator.merge(f"{path}?dryRun=All", {"spec": update.change})
        assert answer.refused == (update.wrong is not None and not update.is_placement), update.name


async def test_placement_may_change_in_the_edit_that_suspends(administrator, jobs):
    path = await start(administrator, jobs, {})
    assert not (await administrator.merge(path, {"spec": {"suspend": True, "workers": {"image": "other"}}})).refused


async def test_before_the_first_start_everything_may_change(administrator, jobs):
    manifest = parity.job("not-started")
    assert not (await administrator.create(jobs, manifest)).refused
    for update in parity.updates():
        answer = await administrator.merge(f"{jobs}/not-started?dryRun=All", {"spec": update.change})
        # What still fails must fail for another reason than the change itself.
        assert "cannot change" not in answer.message


async def test_the_number_of_workers_is_kept_once_it_would_cost_what_was_learnt(administrator, jobs):
    path = await start(administrator, jobs, {})
    await administrator.merge(f"{path}/status", {"status": {"progress": {"step": 3}}})
    answer = await administrator.merge(path, {"spec": {"workers": {"count": 2}}})
    assert answer.refused
    assert "spec.workers.count cannot change after the first training step" in answer.message
    durable = await start(administrator, jobs, {"checkpoint": {"uri": "s3://bucket/job"}})
    await administrator.merge(f"{durable}/status", {"status": {"progress": {"step": 3}}})
    assert not (await administrator.merge(durable, {"spec": {"workers": {"count": 2}}})).refused


async def test_named_lists_may_be_written_in_another_order(administrator, jobs):
    variables = [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}]
    path = await start(administrator, jobs, {"workers": {"env": variables}})
    assert not (await administrator.merge(path, {"spec": {"workers": {"env": variables[::-1]}}})).refused


async def test_one_who_scales_a_job_owns_the_number_of_workers_alone(administrator, jobs):
    manifest = parity.job(next(NAMES))
    path = f"{jobs}/{manifest['metadata']['name']}"
    manifest["spec"]["workers"] = {"image": "a"}
    scaled = {**manifest, "spec": {"workers": {"count": 2}}}
    assert not (await administrator.apply(path, manifest, "author")).refused
    assert not (await administrator.apply(path, scaled, "scaler")).refused
    answer = await administrator.apply(path, manifest, "author")
    assert (answer.body["spec"]["workers"]["count"], answer.body["spec"]["workers"]["image"]) == (2, "a")
