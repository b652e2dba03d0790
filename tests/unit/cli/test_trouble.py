"""Trouble of the command line's own: a loop that fails again and again, a full disk. Neither is waited for in silence."""

import asyncio
import logging

import pytest
import structlog
import yaml
from typer.testing import CliRunner

from trainwright.api.status import Metrics, Phase, TrainingJobStatus
from trainwright.cli.app import app
from trainwright.cli.local.folder import RunFolder, UnwritableError
from trainwright.cli.local.session import Watcher, logging_to

JOB = {
    "apiVersion": "trainwright.dev/v1alpha1",
    "kind": "TrainingJob",
    "metadata": {"name": "digits", "uid": "u"},
    "spec": {
        "model": {"name": "linear"},
        "dataset": {"builtin": {"name": "digits"}},
        "training": {"epochs": 1},
    },
}
FULL = "/dev/full"
"""A device on which there is no room for anything."""


@pytest.fixture
def folder(tmp_path):
    return RunFolder.create(tmp_path, "digits")


def test_trouble_of_the_loop_is_told_once_and_logged_in_full(folder):
    told = []
    with logging_to(folder, told.append):
        log = structlog.get_logger()
        log.warning("not worth a word")
        for _ in range(2):
            log.error("reconcile pass failed and will be retried", exc_info=ValueError("why"))
    assert told == [
        f"Trainwright itself is in trouble: reconcile pass failed and will be retried; see {folder.controller_log}"
    ]
    logged = folder.controller_log.read_text()
    assert logged.count("ValueError: why") == 2
    assert "not worth a word" in logged


def test_a_log_without_room_loses_lines_and_harms_nobody(folder, capsys):
    folder.controller_log.symlink_to(FULL)
    with logging_to(folder, lambda _: None):
        structlog.get_logger().warning("lost")
        logging.getLogger("library").warning("lost too")
    assert capsys.readouterr() == ("", "")


def test_a_log_that_cannot_be_opened_is_told_in_words(folder):
    folder.controller_log.mkdir()
    told = f"cannot write to {folder.path}: Is a directory"
    with pytest.raises(UnwritableError, match=told), logging_to(folder, lambda _: None):
        pass


def test_a_run_that_cannot_be_kept_ends_and_says_so(folder, tmp_path):
    folder.save(JOB)
    folder.lock.close()
    # The next version goes where there is no room.
    (folder.path / ".job.yaml").symlink_to(FULL)
    (tmp_path / "job.yaml").write_text(yaml.safe_dump({**JOB, "metadata": {"name": "digits"}}))
    result = CliRunner().invoke(app, ["run", str(tmp_path / "job.yaml"), "--resume", str(folder.path), "--quiet"])
    assert result.exit_code == 69
    assert result.output.splitlines() == [
        f"cannot write to {folder.path}: No space left on device",
        "killed at step 0; nothing is saved yet",
        f"start from scratch with: trainwright run {tmp_path}/job.yaml --resume {folder.path}",
    ]


def test_more_memory_than_its_limit_is_told_of_once_while_it_runs(folder, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    told = []
    limited = {**JOB["spec"], "workers": {"resources": {"limits": {"memory": "512Mi"}}}}
    watcher = Watcher(folder, lambda _: None, told.append, JOB, asyncio.Event())
    for mebibytes in (500, 600, 700):
        status = TrainingJobStatus(phase=Phase.RUNNING, metrics=Metrics(peak_memory_bytes=mebibytes * 2**20))
        watcher.job_changed({**JOB, "spec": limited, "status": status.to_wire()})
    assert len(told) == 1
    assert told[0].startswith("each worker held up to 600 MiB, more than spec.workers.resources.limits.memory")
