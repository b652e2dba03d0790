"""A run that cannot work is refused before anything starts."""

from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from trainwright.cli.app import app
from trainwright.cli.local.folder import RunFolder

JOB = {
    "apiVersion": "trainwright.dev/v1alpha1",
    "kind": "TrainingJob",
    "metadata": {"name": "prices"},
    "spec": {
        "model": {"name": "linear"},
        "dataset": {"csv": {"path": "/data/prices.csv", "target": "price"}},
        "task": "regression",
        "training": {"epochs": 1},
        "workers": {
            "volumes": [{"name": "houses", "mountPath": "/data", "persistentVolumeClaim": {"claimName": "houses"}}]
        },
    },
}


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Return a function that runs the job with options and returns (exit code, all output)."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(JOB))
    (tmp_path / "with-file").mkdir()
    (tmp_path / "with-file" / "prices.csv").touch()

    def invoke(*options):
        result = CliRunner().invoke(app, ["run", *options])
        assert not (tmp_path / "runs").exists(), "something was started"
        return result.exit_code, result.output

    return invoke


def test_a_volume_that_this_machine_does_not_have(run):
    code, output = run("job.yaml")
    assert code == 64
    assert "spec.dataset.csv.path  line" in output
    assert "pass --volume houses=FOLDER" in output


def test_a_relative_path_into_such_a_volume(run, tmp_path):
    job = yaml.safe_load((tmp_path / "job.yaml").read_text())
    job["spec"]["dataset"]["csv"]["path"] = "prices.csv"
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(job))
    assert "pass --volume houses=FOLDER" in run("job.yaml")[1]
    del job["spec"]["workers"]
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(job))
    code, output = run("job.yaml")
    assert code == 64
    assert f"{tmp_path}/prices.csv does not exist" in output


def test_the_whole_of_a_volume_is_never_taken_for_the_manifests_folder(run, tmp_path):
    job = yaml.safe_load((tmp_path / "job.yaml").read_text())
    job["spec"] |= {"task": "classification", "dataset": {"labeledText": {"path": "."}}, "model": {"name": "lstm"}}
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(job))
    code, output = run("job.yaml")
    assert code == 64
    assert "pass --volume houses=FOLDER" in output


def test_a_file_that_the_volume_does_not_hold(run, tmp_path):
    code, output = run("job.yaml", "--volume", f"houses={tmp_path}")
    assert code == 64
    assert f"{tmp_path}/prices.csv does not exist" in output


@pytest.mark.parametrize(
    ("option", "complaint"),
    [
        ("houses", "expected NAME=FOLDER, found 'houses'"),
        ("houses=missing", "no such folder"),
        ("cars=.", "the job has no volume named 'cars'; it has: houses"),
    ],
)
def test_a_wrong_volume_option(run, option, complaint):
    code, output = run("job.yaml", "--volume", option)
    assert code == 64
    assert complaint in output


def test_workers_are_checked_like_the_manifests_own(run):
    code, output = run("job.yaml", "--volume", "houses=with-file", "--workers", "65")
    assert code == 64
    assert (
        "command line: 1 mistake\n  --workers\n    65 workers are not possible for this job: spec.training.globalBatchSize"
        in output
    )
    assert "must be at least workers.count" in output


@pytest.mark.parametrize("options", [("-w", "0"), ("-w", "x")])
def test_no_number_of_workers_is_wrong_usage(run, options):
    code, output = run("job.yaml", *options)
    assert code == 2
    assert "--workers" in output


def test_one_job_is_run_at_a_time(run, tmp_path):
    text = (tmp_path / "job.yaml").read_text()
    (tmp_path / "job.yaml").write_text(f"{text}---\n{text}")
    code, output = run("job.yaml")
    assert code == 64
    assert "the file holds 2 TrainingJobs, but the command takes one" in output


def test_nothing_to_run(run):
    code, output = run()
    assert code == 2
    assert "pass a manifest" in output


def test_a_folder_that_holds_no_run(run, tmp_path):
    code, output = run("job.yaml", "--resume", str(tmp_path))
    assert code == 64
    assert "holds no run" in output


def test_a_run_of_another_job(run, tmp_path):
    folder = RunFolder.create(tmp_path / "elsewhere", "digits")
    folder.save({**JOB, "metadata": {"name": "digits", "uid": "u"}})
    folder.lock.close()
    code, output = run("job.yaml", "--volume", "houses=with-file", "--resume", str(folder.path))
    assert code == 64
    assert "is a run of digits, not prices" in output


def test_a_run_that_goes_on_in_another_process(run, tmp_path):
    folder = RunFolder.create(tmp_path / "elsewhere", "prices")
    folder.save(JOB)
    code, output = run("job.yaml", "--resume", str(folder.path))
    assert code == 64
    assert "is in use" in output


@pytest.mark.parametrize("folder", ["job.yaml", "/proc/no"])
def test_a_place_where_no_run_can_be_kept(run, folder):
    code, output = run("job.yaml", "--volume", "houses=with-file", "--dir", folder)
    assert code == 64
    assert f"--dir\n    no run can be kept in {folder}: " in output


@pytest.fixture
def ended(tmp_path):
    """The folder of a run that has succeeded."""
    folder = RunFolder.create(tmp_path / "elsewhere", "prices")
    results = {"folder": "/elsewhere/results"}
    metadata = {"name": "prices", "uid": "u", "creationTimestamp": "2026-01-01T00:00:00Z"}
    folder.save({**JOB, "metadata": metadata, "status": {"phase": "Succeeded", "results": results}})
    folder.lock.close()
    return str(folder.path)


def test_a_run_that_has_succeeded_does_not_go_on(run, ended):
    code, output = run("job.yaml", "--volume", "houses=with-file", "--resume", ended, "--workers", "2")
    assert code == 0
    assert "has succeeded already" in output


def test_a_quiet_run_prints_its_result(run, ended):
    code, output = run("job.yaml", "--volume", "houses=with-file", "--resume", ended, "--quiet")
    assert code == 0
    assert "✓ prices succeeded" in output


def test_a_run_whose_folder_cannot_be_written_is_not_gone_on_with(run, tmp_path):
    folder = RunFolder.create(tmp_path / "elsewhere", "prices")
    folder.save(JOB)
    folder.lock.close()
    (folder.path / "logs").rmdir()
    (folder.path / "logs").touch()
    code, output = run("job.yaml", "--volume", "houses=with-file", "--resume", str(folder.path))
    assert code == 64
    assert f"--resume\n    cannot write to {folder.path}: " in output


def test_more_training_of_a_run_that_has_succeeded_is_refused_with_a_way_to_have_it(run, ended, tmp_path):
    before = Path(ended, "job.yaml").read_text()
    job = {**JOB, "spec": {**JOB["spec"], "training": {"epochs": 2}}}
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(job))
    code, output = run("job.yaml", "--volume", "houses=with-file", "--resume", ended)
    assert code == 64
    assert "has succeeded and cannot be resumed" in output
    assert "spec.startFrom: {path: /elsewhere/results}" in output
    assert Path(ended, "job.yaml").read_text() == before


def test_a_path_with_dots_stays_within_the_repository_of_its_manifest(run, tmp_path):
    job = yaml.safe_load((tmp_path / "job.yaml").read_text())
    del job["spec"]["workers"]
    job["spec"]["dataset"]["csv"]["path"] = "../data/prices.csv"
    (tmp_path / "repository" / ".git").mkdir(parents=True)
    (tmp_path / "repository" / "jobs").mkdir()
    for folder in ("repository", "repository/jobs"):
        (tmp_path / folder / "job.yaml").write_text(yaml.safe_dump(job))
    code, output = run("repository/jobs/job.yaml")
    assert code == 64
    assert f"{tmp_path}/repository/data/prices.csv does not exist" in output
    assert "must not contain .." in run("repository/job.yaml")[1]


def test_own_code_in_a_config_map_needs_a_folder_here(run, tmp_path):
    job = yaml.safe_load((tmp_path / "job.yaml").read_text())
    job["spec"] |= {"code": {"configMap": {"name": "nets"}}, "model": {"class": "nets:Net"}}
    job["spec"]["dataset"] = {"builtin": {"name": "diabetes"}}
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(job))
    code, output = run("job.yaml")
    assert code == 64
    assert "spec.code.configMap" in output
    assert "pass --volume own-code=FOLDER" in output
