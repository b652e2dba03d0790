"""What a person sees of a status."""

import io
from datetime import UTC, datetime, timedelta

import pytest
from rich.console import Console

from trainwright.api.exit_codes import FailureClass
from trainwright.api.status import (
    Evaluation,
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
from trainwright.cli.local.display import clock, facts_of, make_display
from trainwright.cli.local.folder import RunFolder
from trainwright.cli.local.summary import show_summary

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
        "epoch 3/10",
        "loss 0.2100",
        "accuracy 0.9100",
        "1,234 samples/s",
        "2/2 workers",
        "1 restart",
    ]


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (75, "1:15"), (3725, "1:02:05")])
def test_durations(seconds, text):
    assert clock(seconds) == text


def test_without_a_terminal_a_line_is_printed_when_something_happened():
    out = io.StringIO()
    with make_display(Console(file=out), "digits", quiet=False) as display:
        display.update(TrainingJobStatus())
        display.update(TrainingJobStatus(phase=Phase.PENDING, message="0 of 1 workers run"))
        display.update(TrainingJobStatus(phase=Phase.PENDING, message="0 of 1 workers run"))
        display.update(RUNNING)
        display.update(RUNNING)
    lines = out.getvalue().splitlines()
    assert lines[0] == "digits  Pending  0 of 1 workers run"
    assert lines[1].startswith("digits  Running  epoch 3/10 · loss 0.2100 · accuracy 0.9100")
    assert len(lines) == 2


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


def test_quiet_is_quiet():
    out = io.StringIO()
    with make_display(Console(file=out), "digits", quiet=True) as display:
        display.update(RUNNING)
        display.note("hello")
    assert out.getvalue() == ""


def printed(status, tmp_path):
    out = io.StringIO()
    folder = RunFolder.create(tmp_path, "digits")
    metadata = {"name": "digits", "creationTimestamp": "2026-01-01T00:00:00Z"}
    show_summary(Console(file=out, width=200), {"metadata": metadata, "status": status.to_wire()}, folder)
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
        ["onnx", "/r/model.onnx  0.41 MB  accuracy 0.9667"],
        ["int8", "/r/model-int8.onnx  0.12 MB  accuracy 0.9611"],
        ["sample", "Once upon a time"],
        ["problem", "spec.generation: RuntimeError: no"],
    ]


def test_the_end_of_a_bad_run(tmp_path):
    failure = Failure(
        category=FailureClass.DATA,
        message="column 'price' is missing",
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
        " message    column 'price' is missing",
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
