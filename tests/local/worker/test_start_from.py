"""A job that starts from what another has left."""

import json
import shutil

import pytest

from trainwright.api.exit_codes import ExitCode

pytestmark = pytest.mark.local


def spec_of(steps=20, hidden=16, optimizer="adam", processes=1, parallelism="ddp"):
    return {
        "model": {"name": "mlp", "args": {"hidden": [hidden]}},
        "dataset": {"builtin": {"name": "digits"}},
        "optimizer": {"name": optimizer, "learningRate": 0.001},
        "training": {"steps": steps, "globalBatchSize": 64, "deterministic": True, "seed": 1},
        "workers": {"processesPerWorker": processes},
        "parallelism": parallelism,
    }


@pytest.fixture
def donor(make_job):
    job = make_job(spec_of(steps=60), "donor")
    job.run()
    return job


def root_of(job):
    return job.config.checkpoint_root


@pytest.mark.parametrize(
    ("inside", "processes", "parallelism"),
    [
        ("job-u1/checkpoints/step-00000060", 1, "ddp"),
        ("job-u1/results", 2, "ddp"),
        ("job-u1/results/weights.safetensors", 2, "fsdp"),
        ("job-u1", 1, "ddp"),
    ],
)
def test_the_model_of_another_job_is_where_training_begins(make_job, donor, inside, processes, parallelism):
    spec = spec_of(1, 16, "sgd", processes, parallelism) | {"startFrom": {"path": inside}}
    spec["optimizer"]["learningRate"] = 1e-30
    job = make_job(spec, "heir", checkpointRoot=root_of(donor), uid="u2")
    job.run()
    assert job.weights == donor.weights, "a step of no length leaves the weights alone"
    assert job.reports[-1].step == 1
    assert job.reports[-1].resumed_from_step is None
    assert f"starting at step 0 with the weights of {inside}" in job.workers[0].log
    again = make_job(
        spec | {"training": spec["training"] | {"steps": 2}}, "again", checkpointRoot=root_of(donor), uid="u2"
    )
    again.run()
    assert again.reports[-1].resumed_from_step == 1, "a job that resumes goes on from its own state"


def test_the_folder_around_a_single_job_is_enough(make_job, donor):
    """A local run keeps its job there, beside the logs."""
    spec = spec_of(1, optimizer="sgd") | {"startFrom": {"path": str(root_of(donor))}}
    spec["optimizer"]["learningRate"] = 1e-30
    job = make_job(spec, "heir", uid="u2")
    job.run()
    assert job.weights == donor.weights
    assert "from these weights" in job.workers[0].log


def test_the_state_of_the_optimizer_comes_along_if_asked_for(make_job, donor):
    place = "job-u1/checkpoints/step-00000060"
    weights = []
    for name, optimizer in (("with", True), ("without", False)):
        spec = spec_of(1) | {"startFrom": {"path": place, "optimizer": optimizer}}
        job = make_job(spec, name, checkpointRoot=root_of(donor), uid=name)
        job.run()
        weights.append(job.weights)
    assert weights[0] != weights[1], "Adam's first step is longer without a history"


@pytest.mark.parametrize(("processes", "parallelism"), [(1, "ddp"), (2, "fsdp")])
def test_a_job_goes_on_where_another_has_stopped(make_job, processes, parallelism):
    """A job that was restored from a backup has another UID, and so another folder, than the one that was backed up."""
    spec = spec_of(60, processes=processes, parallelism=parallelism)
    spec["checkpoint"] = {"everySteps": 20}
    former = make_job(spec, "former")
    former.run()
    shutil.rmtree(former.checkpoints[-1])  # as if it had stopped between steps 40 and 60
    spec["startFrom"] = {"path": "job-u1", "resume": True}
    restored = make_job(spec, "restored", checkpointRoot=root_of(former), uid="u2")
    restored.run()
    assert restored.reports[-1].resumed_from_step == 40
    assert f"the checkpoint of step 40 was copied from {root_of(former)}/job-u1" in restored.workers[0].log
    assert restored.weights == former.weights
    # From now on it needs nothing of the other job.
    shutil.rmtree(former.config.job_folder)
    again = restored.start(attempt=2)
    assert again.wait() == 0, again.log
    assert restored.reports[-1].resumed_from_step == 60


def test_the_best_checkpoint_comes_along_if_it_is_kept(make_job):
    spec = {
        **spec_of(),
        "dataset": {"builtin": {"name": "digits"}, "split": {"validation": 0.2}},
        "optimizer": {"name": "sgd", "learningRate": 4.0},  # so large that accuracy comes and goes
        "training": {"epochs": 12, "globalBatchSize": 64, "deterministic": True},
        "checkpoint": {"keep": 1, "keepBest": True},
    }
    former = make_job(spec, "former")
    former.run()
    assert len(former.checkpoints) == 2, "the best and the last"
    spec["startFrom"] = {"path": "job-u1", "resume": True}
    restored = make_job(spec, "restored", checkpointRoot=root_of(former), uid="u2")
    restored.run()
    assert restored.summary["weightsOfStep"] == former.summary["weightsOfStep"] < former.summary["step"]
    assert restored.weights == former.weights


@pytest.mark.parametrize(
    ("start", "changes", "said"),
    [
        ({"path": "nothing/here"}, {}, "nothing/here is neither a checkpoint nor a results folder"),
        ({"path": "job-u1"}, {"hidden": 17}, "weight 1.weight has shape 16x64 in the checkpoint, but 17x64 in this model"),
        ({"path": "job-u1", "optimizer": True}, {"optimizer": "sgd"}, "that checkpoint's optimizer is adam, and this job's is sgd"),
        ({"path": "job-u1/results", "optimizer": True}, {}, "contains no optimizer state"),
        ({"path": "job-u1/results", "resume": True}, {}, "contains no checkpoint to resume from"),
        ({"path": "nothing", "resume": True}, {}, "nothing is neither a checkpoint nor a results folder"),
        ({"path": "job-u1", "resume": True}, {"hidden": 17}, "weight 1.weight has shape 16x64 in the checkpoint"),
        ({"path": "outside"}, {}, "points outside the root of the checkpoints"),
        ({"path": "job-u1/results/results.json"}, {}, "is neither a checkpoint nor a results folder"),
    ],
)  # fmt: skip
def test_what_cannot_be_started_from_is_a_user_error(make_job, donor, start, changes, said, tmp_path):
    (donor.folder / "checkpoints" / "outside").symlink_to(tmp_path)
    spec = spec_of(**changes) | {"startFrom": start}
    job = make_job(spec, "heir", checkpointRoot=root_of(donor), uid="u2")
    worker = job.start()
    assert worker.wait() == ExitCode.USER_ERROR, worker.log
    assert said in worker.termination.message
    assert job.step == 0


TEXTS = {
    "model": {"name": "lstm", "args": {"hidden": 8, "embedding": 8}},
    "dataset": {"labeledText": {"path": "reviews.jsonl"}},
    "training": {"epochs": 1, "globalBatchSize": 16},
}


def write_reviews(job, names):
    place = job.folder / "data" / "reviews.jsonl"
    place.parent.mkdir(exist_ok=True)
    lines = [{"text": f"a {names[number % 4]} film", "label": str(number % 2)} for number in range(64)]
    place.write_text("\n".join(map(json.dumps, lines)))


@pytest.mark.parametrize("inside", ["job-u1/results", "job-u1"])
def test_tokens_that_have_other_numbers_here_are_refused_and_those_of_the_donor_taken(make_job, inside):
    donor = make_job(TEXTS, "donor")
    write_reviews(donor, ("good", "bad", "fine", "dull"))
    donor.run()
    start = {"startFrom": {"path": inside}}
    heir = make_job(TEXTS | start, "heir", checkpointRoot=root_of(donor), uid="u2")
    write_reviews(heir, ("old", "new", "long", "short"))
    worker = heir.start()
    assert worker.wait() == ExitCode.USER_ERROR, worker.log
    assert f"spec.startFrom.path: {inside} was trained with another tokenizer" in worker.termination.message
    told = TEXTS | start | {"dataset": {**TEXTS["dataset"], "tokenizer": {"path": str(donor.results)}}}
    again = make_job(told, "again", checkpointRoot=root_of(donor), uid="u3")
    write_reviews(again, ("old", "new", "long", "short"))
    again.run()
    assert again.summary["data"]["tokenizer"] == donor.summary["data"]["tokenizer"]
