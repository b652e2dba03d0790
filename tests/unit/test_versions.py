"""What former versions have written is understood, and what this version writes is understood by their workers and clients."""

import json
from dataclasses import replace
from datetime import timedelta

import pytest
import yaml

from trainwright.api.crd import crd
from trainwright.api.names import CONFIG_FILE
from trainwright.api.status import ConditionType, Phase
from trainwright.api.worker import Termination, WorkerConfig, WorkerReport
from trainwright.build import Settings, config_map
from trainwright.plan import Observed, Received, plan
from trainwright.plan.observe import read_job, read_pod
from versions import VERSIONS, read

pytestmark = pytest.mark.parametrize("version", VERSIONS, ids=lambda version: version.name)

SETTINGS = Settings(
    worker_image="worker:present", reports_url="https://operator:8443", reports_ca="another CA", report_interval=0.5
)


def contains(whole, part):
    """Return whether everything in `part` is in `whole`, which may have more fields."""
    if isinstance(part, dict):
        return isinstance(whole, dict) and all(key in whole and contains(whole[key], part[key]) for key in part)
    if isinstance(part, list):
        return len(whole) == len(part) and all(map(contains, whole, part))
    return whole == part


def observed(version, job="running-job.json", **fields):
    stored = read_job(read(version, job))
    values = {
        "job": stored,
        "pods": (read_pod(read(version, "running-pod.json"), stored.name),),
        "received": None,
        "rejection": None,
        "settings": SETTINGS,
        "now": stored.status.progress.reported_at + timedelta(seconds=1),
        **fields,
    }
    return Observed(**values)


@pytest.mark.parametrize("name", ["running-job.json", "finished-job.json"])
def test_stored_objects_lose_nothing_when_they_are_read(version, name):
    stored = read(version, name)
    job = read_job(stored)
    assert contains(job.spec.to_wire(), stored["spec"])
    assert contains(job.status.to_wire(), stored["status"])


def test_messages_of_its_workers_lose_nothing_when_they_are_read(version):
    for name, kind in (
        ("report.json", WorkerReport),
        ("succeeded.json", Termination),
        ("failed.json", Termination),
    ):
        sent = read(version, name)
        assert contains(kind.model_validate_json(json.dumps(sent)).to_wire(), sent), name


def test_a_running_job_goes_on_as_it_is(version):
    """A worker reports; nothing is created, deleted or decided anew."""
    report = WorkerReport.model_validate_json(json.dumps(read(version, "report.json")))
    seen = observed(version)
    decided = plan(replace(seen, received=Received(report, seen.now)))
    assert (decided.create, decided.delete, decided.events, decided.delete_job) == ((), (), (), False)
    status = decided.status or seen.job.status
    assert (status.phase, status.attempt, status.restarts) == (Phase.RUNNING, 1, 0)
    assert status.progress.step == report.step


def test_an_edit_that_is_allowed_is_accepted_after_an_upgrade(version):
    seen = observed(version)
    job = replace(seen.job, generation=seen.job.generation + 1, spec=seen.job.spec.changed(suspend=True))
    decided = plan(replace(seen, job=job))
    assert decided.status.condition(ConditionType.ACCEPTED).status == "True"
    assert decided.status.phase == Phase.SUSPENDED


def test_a_finished_job_stays_as_it_is(version):
    job = read_job(read(version, "finished-job.json"))
    decided = plan(observed(version, "finished-job.json", pods=(), now=job.status.finished_at + timedelta(hours=1)))
    assert (decided.create, decided.delete, decided.status) == ((), (), None)


def test_the_present_worker_reads_its_config(version):
    text = read(version, "config-map.json")["data"][CONFIG_FILE]
    assert contains(WorkerConfig.model_validate_json(text).to_wire(), json.loads(text))


def test_its_worker_reads_the_config_of_the_present_operator(version):
    """A worker ignores unknown fields of the config but refuses those of the spec, and needs the fields that it always had."""
    job = read_job(read(version, "running-job.json"))
    data = config_map(job.namespace, job.name, job.uid, job.spec, SETTINGS)["data"]
    former = read(version, "config-map.json")["data"]
    assert data.keys() >= former.keys()
    written, before = json.loads(data[CONFIG_FILE]), json.loads(former[CONFIG_FILE])
    assert written.keys() >= before.keys()
    assert written["reports"].keys() >= before["reports"].keys()
    assert written["spec"] == before["spec"]


def schemas(definition):
    (served,) = [each for each in definition["spec"]["versions"] if each["name"] == "v1alpha1"]
    return served["schema"]["openAPIV3Schema"]


def narrower(former, present, path=""):
    """Yield what a client of the former schema could write, or rely on, that the present one refuses or does otherwise."""
    for key in ("type", "default", "format"):
        if former.get(key) != present.get(key):
            yield f"{path}: {key} was {former.get(key)!r} and is {present.get(key)!r}"
    yield from (
        f"{path}: {value!r} is no longer allowed"
        for value in former.get("enum", ())
        if value not in present.get("enum", [value])
    )
    yield from (
        f"{path}.{name} is now required"
        for name in present.get("required", ())
        if name not in former.get("required", ())
    )
    for key, sign in (
        ("minimum", 1),
        ("minLength", 1),
        ("minItems", 1),
        ("maximum", -1),
        ("maxLength", -1),
        ("maxItems", -1),
    ):
        if key in present and (key not in former or sign * present[key] > sign * former[key]):
            yield f"{path}: {key} was {former.get(key)} and is {present[key]}"
    for name, below in former.get("properties", {}).items():
        if name not in present.get("properties", {}):
            yield f"{path}.{name} is gone"
        else:
            yield from narrower(below, present["properties"][name], f"{path}.{name}")
    for key in ("items", "additionalProperties"):
        if isinstance(former.get(key), dict):
            yield from narrower(former[key], present.get(key, {}), f"{path}[]")


def test_the_present_crd_allows_what_its_crd_allowed_and_has_the_same_defaults(version):
    former = yaml.safe_load((version / "crd.yaml").read_text())
    assert list(narrower(schemas(former), schemas(crd()))) == []
