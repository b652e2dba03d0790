"""What a person sees of a status."""

import io
import json
import re
from datetime import UTC, datetime, timedelta

import pytest
from rich.console import Console

from trainwright.api.amounts import clock_text
from trainwright.api.exit_codes import FailureClass
from trainwright.api.figures import Evaluation, StepTime
from trainwright.api.status import (
    Checkpoint,
    Export,
    Failure,
    Generated,
    Metrics,
    Phase,
    Progress,
    Results,
    TrainingJobStatus,
    Workers,
)
from trainwright.cli.local.display import facts_of, make_display
from trainwright.cli.local.folder import RunFolder
from trainwright.cli.local.summary import show_summary
from trainwright.cli.local.words import figure

SPEC = {"model": {"name": "linear"}, "dataset": {"builtin": {"name": "digits"}}, "training": {"epochs": 1}}
NOW = datetime.now(UTC).replace(microsecond=0)
RUNNING = TrainingJobStatus(
    phase=Phase.RUNNING,
    reason="Training",
    message="training: epoch 3 of 10, step 70 of 300",
    restarts=1,
    progress=Progress(percent=23, step=70, total_steps=300, epoch=2, total_epochs=10, samples=4480),
    metrics=Metrics(
        loss=0.21,
        samples_per_second=1234.5,
        evaluation=Evaluation(split="validation", step=60, metrics={"loss": 0.3, "accuracy": 0.91}),
    ),
    workers=Workers(desired=2, ready=2),
)


def test_facts_are_short_and_the_telling_metric_comes_first():
    assert facts_of(RUNNING) == [
        "1 restart",
        "epoch 3/10",
        "loss 0.2100",
        "val accuracy 0.9100",
        "1,234 samples/s",
        "2/2 workers",
    ]


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (75, "1:15"), (3725, "1:02:05")])
def test_durations(seconds, text):
    assert clock_text(seconds) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.9694, "0.9694"),
        (0.91, "0.9100"),
        (2.30259, "2.3026"),
        (0, "0.0000"),
        (0.000123456, "0.0001235"),
        (-5.12345e-06, "-5.123e-06"),
        (9493.32, "9493.32"),
        (123456.0, "123456"),
        (7466890000.0, "7.46689e+09"),
        (float("nan"), "nan"),
        (float("inf"), "inf"),
    ],
)
def test_no_digit_of_a_figure_is_invented(value, text):
    assert figure(value) == text


def test_large_figures_are_told_alike_while_it_trains_and_at_the_end(tmp_path):
    error = {"mae": 9493.32, "loss": 7466890000.0}
    metrics = Metrics(loss=7466890000.0, evaluation=Evaluation(split="test", step=60, metrics=error))
    export = Export(format="onnx", path="/r/model.onnx", bytes=410_000, metrics={"samples": 9, "mae": 9493.32})
    status = RUNNING.model_copy(update={"metrics": metrics, "results": Results(folder="/r", exports=[export])})
    assert facts_of(status)[2:4] == ["loss 7.46689e+09", "test mae 9493.32"]
    shown = printed(status, tmp_path)
    assert " test      mae 9493.32  loss 7.46689e+09" in shown
    assert " onnx      /r/model.onnx  400 KiB  mae 9493.32" in shown


def test_without_a_terminal_a_line_is_printed_when_something_happened():
    out = io.StringIO()
    with make_display(Console(file=out), "digits", quiet=False) as display:
        display.update(TrainingJobStatus())
        display.update(TrainingJobStatus(phase=Phase.PENDING, message="0 of 1 workers run"))
        display.update(TrainingJobStatus(phase=Phase.PENDING, message="0 of 1 workers run"))
        eta = NOW + timedelta(seconds=3600.9)
        progress = RUNNING.progress.model_copy(update={"eta": eta})
        display.update(RUNNING.model_copy(update={"progress": progress}))
        display.update(RUNNING)
        display.update(RUNNING.model_copy(update={"message": "evaluating: epoch 3 of 10, step 70 of 300"}))
    lines = out.getvalue().splitlines()
    assert lines[0] == "digits  pending  0 of 1 workers run"
    assert lines[1].endswith("the workers started their processes again; starting from the beginning")
    where = "step 70/300 (23 %) · TIME left · 1 restart · epoch 3/10 · loss 0.2100 · val accuracy 0.9100"
    assert re.sub(r"[\d:]+ left", "TIME left", lines[2]).startswith(f"digits  training  {where}")
    assert lines[3].startswith("digits  evaluating  step 70/300 (23 %)"), "another activity is told at once"
    assert len(lines) == 4


def test_a_terminal_shows_the_bar_and_the_time_left():
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=110, color_system=None)
    eta = NOW + timedelta(seconds=600)
    with make_display(console, "digits", quiet=False) as display:
        display.update(RUNNING.model_copy(update={"progress": RUNNING.progress.model_copy(update={"eta": eta})}))
    text = out.getvalue()
    assert "digits  Running" in text
    assert "23%  step 70/300" in text
    assert " left" in text


KILLED = Failure(
    category=FailureClass.INFRASTRUCTURE,
    message="rank 1 was ended by SIGKILL",
    attempt=1,
    worker=1,
    rank=1,
    failed_at=NOW,
)
SAVED = [Checkpoint(step=step, path=f"/c/{step}", bytes=1, sha256="0", saved_at=NOW) for step in (1_200, 1_300)]


def after_restart(**fields):
    """A status with one restart more than RUNNING."""
    return RUNNING.model_copy(update={"restarts": 2, "failure": KILLED, "checkpoints": SAVED, **fields})


def at(step, launch, ended=None):
    return RUNNING.progress.model_copy(update={"resumed_from_step": step, "launch": launch, "ended_launch": ended})


LOST = KILLED.model_copy(update={"rank": None, "message": "worker 1 was ended by SIGKILL"})


@pytest.mark.parametrize(
    ("statuses", "told"),
    [
        (
            [RUNNING, after_restart(progress=at(1_300, "b")), after_restart(progress=at(1_300, "b"))],
            ["worker 1: rank 1 was ended by SIGKILL; going on from step 1,300"],
        ),
        # Its pods start again: what the launch that ended began from says nothing of the next.
        (
            [RUNNING, after_restart(phase=Phase.RESTARTING, progress=at(400, "a", "a"), failure=LOST)],
            ["worker 1 was ended by SIGKILL; going on from step 1,300"],
        ),
        (
            [RUNNING, after_restart(progress=at(None, "b"), failure=None)],
            ["the workers started their processes again; starting from the beginning"],
        ),
        # The cause may be known later than the restart.
        (
            [RUNNING, after_restart(progress=at(1_300, "b"), failure=None), after_restart(progress=at(1_300, "b"))],
            [
                "the workers started their processes again; going on from step 1,300",
                "worker 1: rank 1 was ended by SIGKILL; going on from step 1,300",
            ],
        ),
        # What a resumed run brings along, and how a job ends, is told elsewhere.
        ([after_restart()], []),
        ([RUNNING, after_restart(phase=Phase.FAILED)], []),
    ],
)
@pytest.mark.parametrize("terminal", [True, False])
def test_a_restart_is_explained_once_in_a_line_that_stays(statuses, told, terminal):
    out = io.StringIO()
    with make_display(Console(file=out, force_terminal=terminal, width=120), "digits", quiet=False) as display:
        for status in statuses:
            display.update(status)
    lines = [
        line.partition("[33m")[2].partition("\x1b")[0] if terminal else line for line in out.getvalue().split("\n")
    ]
    stayed = [line for line in lines if re.match(r"\d\d:\d\d:\d\d ", line)]
    assert [line[len("14:57:25 ") :] for line in stayed] == told


def test_a_narrow_terminal_cuts_nothing_off():
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=40, color_system=None)
    progress = RUNNING.progress.model_copy(update={"eta": NOW + timedelta(seconds=600)})
    message = "no report for 70 s; 2 of 2 workers run. Last heard of at step 70"
    status = RUNNING.model_copy(update={"progress": progress, "message": message})
    with make_display(console, "digits", quiet=False) as display:
        display.update(status)
    screen = " ".join(out.getvalue().split())
    assert "…" not in screen
    for words in (message, "step 70/300", " left", "1 restart · epoch 3/10", "val accuracy 0.9100", "2/2 workers"):
        assert words in re.sub(r"\x1b\S*", "", screen), words


def test_quiet_is_quiet():
    out = io.StringIO()
    with make_display(Console(file=out), "digits", quiet=True) as display:
        display.update(RUNNING)
        display.note("hello")
    assert out.getvalue() == ""


def printed(status, tmp_path, spec=None):
    out = io.StringIO()
    folder = RunFolder.create(tmp_path, "digits")
    metadata = {"name": "digits", "creationTimestamp": "2026-01-01T00:00:00Z"}
    show_summary(
        Console(file=out, width=200), {"metadata": metadata, "spec": spec or SPEC, "status": status.to_wire()}, folder
    )
    return [line.rstrip() for line in out.getvalue().splitlines() if line.strip()]


def test_the_end_of_a_good_run(tmp_path):
    status = RUNNING.model_copy(
        update={
            "phase": Phase.SUCCEEDED,
            "started_at": NOW,
            "finished_at": NOW + timedelta(seconds=75),
            "results": Results(folder="/r", weights="/r/model.safetensors"),
        }
    )
    assert printed(status, tmp_path) == [
        "✓ digits succeeded in 1:15",
        " validation  accuracy 0.9100  loss 0.3000",
        " trained     70 steps, 2 epochs, 4,480 samples",
        " throughput  1,234 samples/s",
        " restarts    1",
        " results     /r",
        " weights     /r/model.safetensors",
    ]


def test_the_end_says_why_it_restarted_and_what_its_figures_are_of(tmp_path):
    parts = StepTime(total=0.00393, data=0, forward=0.00196, backward=0.00197, communication=0, optimizer=0)
    best = Evaluation(split="validation", step=1_300, metrics={"accuracy": 0.95})
    metrics = RUNNING.metrics.model_copy(
        update={"step_seconds": parts, "best": best, "peak_memory_bytes": 3 * 2**20, "samples_per_second": 900.0}
    )
    progress = RUNNING.progress.model_copy(update={"replayed_steps": 220})
    status = after_restart(phase=Phase.SUCCEEDED, metrics=metrics, progress=progress)
    kept = printed(status, tmp_path)
    assert kept[2:] == [
        " best        accuracy 0.9500  on validation at step 1,300",
        " trained     70 steps, 2 epochs, 4,480 samples",
        " throughput  900 samples/s  3 MiB at the peak",
        " one step    3.93 ms, the last one timed: forward 50 %, backward 50 %",
        " restarts    2 (220 steps trained again), the newest: worker 1: rank 1 was ended by SIGKILL",
        f" run         {tmp_path}/digits-1",
    ]
    lost = printed(status.model_copy(update={"checkpoints": []}), tmp_path)
    assert lost[2].endswith("at step 1,300  (not kept: checkpoint.keepBest)")


def test_paths_can_be_copied_from_a_narrow_terminal_and_files_hold_no_padding(tmp_path):
    weights = f"/{'long/' * 20}model.safetensors"
    status = RUNNING.model_copy(
        update={
            "phase": Phase.SUCCEEDED,
            "results": Results(folder="/r", weights=weights, problems=[("one two " * 20).rstrip()]),
        }
    )
    job = {
        "metadata": {"name": "digits", "creationTimestamp": "2026-01-01T00:00:00Z"},
        "spec": SPEC,
        "status": status.to_wire(),
    }
    folder = RunFolder.create(tmp_path, "digits")
    screen, file = io.StringIO(), io.StringIO()
    show_summary(Console(file=screen, force_terminal=True, color_system=None, width=40), job, folder)
    show_summary(Console(file=file, width=40), job, folder)
    assert weights in screen.getvalue()
    assert max(len(line) for line in screen.getvalue().splitlines() if "one" in line) <= 40
    assert all(line == line.rstrip() for line in file.getvalue().splitlines()), file.getvalue()


def test_what_a_run_has_left_is_shown_with_its_figures(tmp_path):
    results = Results(
        folder="/r",
        weights="/r/weights.safetensors",
        generated="/r/generated.jsonl",
        samples=[Generated(prompt="Once", text=" upon\na time")],
        exports=[
            Export(format="safetensors", path="/r/weights.safetensors", bytes=400_000),
            Export(format="onnx", path="/r/model.onnx", bytes=410_000, metrics={"samples": 180, "accuracy": 0.9667}),
            Export(
                format="int8", path="/r/model-int8.onnx", bytes=120_500, metrics={"samples": 180, "accuracy": 0.9611}
            ),
        ],
        explanations="/r/explanations",
        problems=["spec.generation: RuntimeError: no"],
    )
    lines = printed(RUNNING.model_copy(update={"phase": Phase.SUCCEEDED, "results": results}), tmp_path)
    assert [line.split(maxsplit=1) for line in lines[-8:]] == [
        ["results", "/r"],
        ["weights", "/r/weights.safetensors"],
        ["generated", "/r/generated.jsonl"],
        ["explanations", "/r/explanations"],
        ["onnx", "/r/model.onnx  400 KiB  accuracy 0.9667"],
        ["int8", "/r/model-int8.onnx  118 KiB  accuracy 0.9611"],
        ["sample", "Once upon a time"],
        ["problem", "spec.generation: RuntimeError: no"],
    ]


def test_the_end_of_a_bad_run(tmp_path):
    failure = Failure(
        category=FailureClass.DATA,
        message="worker 0: column 'price' is missing",
        hint="Name a column of the file.",
        attempt=1,
        worker=0,
        rank=1,
        pod="digits-0-1",
        exit_code=65,
        exception="KeyError: 'price'",
        traceback="Traceback\n  line\n",
        failed_at=NOW,
    )
    status = TrainingJobStatus(phase=Phase.FAILED, started_at=NOW, finished_at=NOW, failure=failure)
    lines = printed(status, tmp_path)
    assert lines[:6] == [
        "✗ digits failed after 0:00",
        " cause      Data",
        " message    worker 0: column 'price' is missing",
        " where      worker 0, rank 1, exit code 65",
        " exception  KeyError: 'price'",
        " hint       Name a column of the file.",
    ]
    assert lines[6].endswith("logs/digits-0-1.log")
    assert lines[7:] == [" Traceback", "   line"]


def test_the_log_speaks_for_a_worker_that_could_not(tmp_path):
    failure = Failure(
        category=FailureClass.INTERNAL, message="exited with 1", attempt=1, pod="digits-0-1", failed_at=NOW
    )
    (tmp_path / "digits-1" / "logs").mkdir(parents=True)
    status = TrainingJobStatus(phase=Phase.FAILED, failure=failure)
    folder = RunFolder.create(tmp_path, "digits")
    folder.log("digits-0-1").write_text("Segmentation fault\n")
    out = io.StringIO()
    show_summary(Console(file=out, width=200), {"metadata": {"name": "digits"}, "status": status.to_wire()}, folder)
    assert "Segmentation fault" in out.getvalue()


def test_the_end_warns_of_a_memory_limit_that_a_cluster_would_have_enforced(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    status = TrainingJobStatus(phase=Phase.SUCCEEDED, metrics=Metrics(peak_memory_bytes=300 * 2**20))
    limited = {"processesPerWorker": 2, "resources": {"limits": {"memory": "512Mi"}}}
    text = "\n".join(printed(status, tmp_path, {**SPEC, "workers": limited}))
    assert "each worker held up to 600 MiB, more than spec.workers.resources.limits.memory allows (512 MiB)" in text
    roomy = {"resources": {"limits": {"memory": "512Mi"}}}
    assert "more than" not in "\n".join(printed(status, tmp_path, {**SPEC, "workers": roomy}))


def test_results_in_an_object_store_keep_both_slashes(tmp_path):
    results = Results(folder="s3://bucket/jobs/digits-u/results", weights="s3://bucket/jobs/digits-u/results/weights")
    lines = printed(TrainingJobStatus(phase=Phase.SUCCEEDED, results=results), tmp_path)
    assert " results   s3://bucket/jobs/digits-u/results" in lines


def test_a_run_that_learnt_nothing_ends_with_a_doubt_instead_of_a_tick(tmp_path):
    folder = tmp_path / "job" / "results"
    folder.mkdir(parents=True)
    (tmp_path / "job" / "tensorboard").mkdir()
    test = {"split": "test", "step": 3, "metrics": {"accuracy": 0.1}}
    (folder / "results.json").write_text(json.dumps({"test": test, "data": {"classes": list("0123456789")}}))
    text = "\n".join(printed(TrainingJobStatus(phase=Phase.SUCCEEDED, results=Results(folder=str(folder))), tmp_path))
    assert text.startswith("! digits succeeded")
    assert "accuracy 0.1000 on test is no better than always predicting the most frequent class" in text
    assert f"tensorboard --logdir {tmp_path}/job/tensorboard" in text
