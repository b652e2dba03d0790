"""What pydantic accepts is what the API server accepts: every manifest of the corpus, and every change to a started job.

The manifests go to the API server as YAML in a dry run with strict field validation, as `kubectl apply` sends them.
"""

from collections import Counter
from pathlib import Path
from random import Random

import pytest

import parity
from trainwright.manifests import dump, load

EXAMPLES = sorted((Path(__file__).parents[2] / "manifests" / "examples").glob("*.yaml"))
JOBS = "/apis/trainwright.dev/v1alpha1/namespaces/{}/trainingjobs"


@pytest.fixture
def refusal(administrator):
    """Return what the API server has against a text, or None."""

    async def send(text):
        answer = await administrator.try_yaml(JOBS.format("default"), text)
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
        verdicts[said is None] += 1
    assert verdicts[True] >= 40
    assert verdicts[False] >= 400


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
async def test_the_api_server_accepts_the_examples(path, refusal):
    for document in load(path.read_text()):
        assert await refusal(dump(document)) is None


@pytest.mark.parametrize("update", parity.updates(), ids=lambda update: update.name)
async def test_changes_to_a_started_job(update, namespace, administrator):
    jobs = JOBS.format(namespace)
    manifest = parity.job("started")
    manifest["spec"] |= update.was
    assert not (await administrator.create(jobs, manifest)).refused
    started = await administrator.merge(f"{jobs}/started/status", {"status": {"attempt": 1}})
    assert started.body["status"]["attempt"] == 1
    answer = await administrator.merge(f"{jobs}/started", {"spec": update.change}, lenient=True)
    if update.wrong is None:
        assert not answer.refused, answer
    else:
        assert answer.body["reason"] == "Invalid"
        (cause,) = answer.body["details"]["causes"]
        assert cause["field"] == "spec"
        named = cause["message"].partition("cannot change after the first start (create a new job instead): ")[2]
        assert named.split() == [update.wrong]


@pytest.mark.parametrize("update", parity.updates(), ids=lambda update: update.name)
async def test_before_the_first_start_everything_may_change(update, namespace, administrator):
    jobs = JOBS.format(namespace)
    assert not (await administrator.create(jobs, parity.job("not-started"))).refused
    answer = await administrator.merge(f"{jobs}/not-started", {"spec": update.change}, lenient=True)
    # What still fails must fail for another reason than the change itself.
    assert "cannot change" not in answer.message
