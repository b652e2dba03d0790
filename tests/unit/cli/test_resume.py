"""What a run that goes on takes from the one before."""

from pathlib import Path

import pytest

from trainwright.cli.local.command import Request, _exit_code, _prepare, _was_refused
from trainwright.cli.local.folder import ANNOTATION_DATA
from trainwright.cli.manifest import SourceManifest

WRITTEN = {
    "apiVersion": "trainwright.dev/v1alpha1",
    "kind": "TrainingJob",
    "metadata": {"name": "digits"},
    "spec": {
        "model": {"name": "linear"},
        "dataset": {"builtin": {"name": "digits"}},
        "training": {"epochs": 3},
        "suspend": True,
    },
}
REQUEST = Request(
    source="job.yaml", workers=None, output="table", resume=None, runs=Path("runs"), volumes=[], logs=False, quiet=False
)
MANIFEST = SourceManifest("/jobs/job.yaml", WRITTEN)


def an_earlier(**status):
    metadata = {"name": "digits", "namespace": "default", "uid": "u", "generation": 2}
    metadata["annotations"] = {ANNOTATION_DATA: "/data-of-then"}
    return {**WRITTEN, "metadata": metadata, "status": {"attempt": 1, "progress": {"step": 9}, **status}}


def test_a_new_run_is_what_was_written_and_not_suspended():
    prepared = _prepare(REQUEST, MANIFEST, None)
    assert prepared.job["spec"] == {**WRITTEN["spec"], "suspend": False}
    assert prepared.data == Path("/jobs")
    assert "status" not in prepared.job
    assert "uid" not in prepared.job["metadata"]


def test_a_resumed_run_keeps_identity_and_status():
    earlier = an_earlier(phase="Suspended")
    job = _prepare(REQUEST, MANIFEST, earlier).job
    assert (job["metadata"]["uid"], job["metadata"]["generation"]) == ("u", 3)
    assert job["status"] == earlier["status"]
    assert job["spec"]["suspend"] is False


def test_a_killed_run_goes_on_like_a_suspended_one():
    job = _prepare(REQUEST, MANIFEST, an_earlier(phase="Running", startedAt="x", restarts=1)).job
    assert job["status"] == {"attempt": 1, "progress": {"step": 9}, "phase": "Suspended", "restarts": 1}


def test_a_run_can_be_resumed_without_its_manifest():
    prepared = _prepare(REQUEST, None, an_earlier(phase="Suspended"))
    assert prepared.data == Path("/data-of-then")
    assert prepared.job["spec"]["training"] == {"epochs": 3}


def test_a_failed_run_is_tried_again_with_what_it_has_learned():
    job = _prepare(REQUEST, MANIFEST, an_earlier(phase="Failed", restarts=3, failure={}, finishedAt="x")).job
    assert job["status"] == {"attempt": 1, "progress": {"step": 9}}


def test_workers_of_the_command_line_win():
    prepared = _prepare(Request(**{**vars(REQUEST), "workers": 4}), MANIFEST, None)
    assert prepared.spec.workers.count == 4
    assert MANIFEST.document["spec"].get("workers") is None


@pytest.mark.parametrize(
    ("status", "code"),
    [
        ({"phase": "Succeeded"}, 0),
        ({"phase": "Failed"}, 1),
        ({"phase": "Failed", "failure": {"exitCode": 65}}, 65),
        ({"phase": "Failed", "failure": {"exitCode": 137}}, 1),
    ],
)
def test_the_exit_code_names_the_class_of_failure(status, code):
    if "failure" in status:
        common = {"category": "Data", "message": "m", "attempt": 1, "failedAt": "2026-01-01T00:00:00Z"}
        status = {**status, "failure": {**status["failure"], **common}}
    assert _exit_code({"status": status}) == code


SAVED = {"step": 9, "path": "/c", "bytes": 1, "sha256": "0", "savedAt": "2026-01-01T00:00:00Z"}
VERDICT = {"category": "UserError", "message": "m", "attempt": 2, "failedAt": "2026-01-01T00:00:00Z"}


@pytest.mark.parametrize(
    ("now", "checkpoints", "refused"),
    [
        ({"phase": "Failed", "failure": VERDICT}, [SAVED], True),
        # It trained before it failed, so what is left is its own.
        ({"phase": "Failed", "failure": VERDICT, "progress": {"launch": "b"}}, [SAVED], False),
        ({"phase": "Failed", "failure": {**VERDICT, "category": "Infrastructure"}}, [SAVED], False),
        ({"phase": "Succeeded"}, [SAVED], False),
        # There is nothing to protect.
        ({"phase": "Failed", "failure": VERDICT}, [], False),
    ],
)
def test_a_run_that_its_new_job_cannot_go_on_with_is_told_apart(now, checkpoints, refused):
    earlier = an_earlier(phase="Suspended", checkpoints=checkpoints, progress={"launch": "a"})
    assert _was_refused({**earlier, "status": {**earlier["status"], **now}}, earlier) is refused
