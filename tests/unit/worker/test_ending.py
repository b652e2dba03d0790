import errno
import json

import pytest
import torch

from trainwright.api.exit_codes import ExitCode
from trainwright.api.figures import Evaluation
from trainwright.api.status import Checkpoint
from trainwright.api.worker import MOST_HEARTBEATS, RankHeartbeat, Termination, WorkerPhase, WorkerReport
from trainwright_worker.agent.termination import describe, fit, read_post_mortem, write_post_mortem, write_termination
from trainwright_worker.errors import DataError, OutOfMemoryError, PeersLostError, UserError, explain
from trainwright_worker.reporting.report import first_report


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UserError("spec.x: wrong"), ExitCode.USER_ERROR),
        (DataError("spec.x: wrong"), ExitCode.DATA),
        (MemoryError(), ExitCode.OUT_OF_MEMORY),
        (RuntimeError("CUDA out of memory. Tried to allocate 20.00 MiB"), ExitCode.OUT_OF_MEMORY),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes"),
            ExitCode.OUT_OF_MEMORY,
        ),
        (torch.OutOfMemoryError("CUDA out of memory"), ExitCode.OUT_OF_MEMORY),
        (RuntimeError("[gloo/transport/tcp/pair.cc:547] Connection closed by peer [::1]:1"), ExitCode.INFRASTRUCTURE),
        (torch.distributed.DistNetworkError("failed to recv"), ExitCode.INFRASTRUCTURE),
        (OSError(errno.ENOSPC, "No space left on device"), ExitCode.INFRASTRUCTURE),
        (RuntimeError("x does not have a deterministic implementation, but you set"), ExitCode.USER_ERROR),
        (
            ValueError("Expected more than 1 value per channel when training, got input size torch.Size([1, 3])"),
            ExitCode.USER_ERROR,
        ),
        (ZeroDivisionError("division by zero"), ExitCode.INTERNAL),
    ],
)
def test_exceptions_have_a_class(error, code):
    assert explain(error).exit_code == code


def test_losing_a_peer_is_told_apart_from_a_cause():
    gloo = (
        "[/x/gloo/tcp/pair.cc:545] Read error [127.0.0.1]:26015: Connection reset by peer. This is typically caused by"
    )
    found = explain(RuntimeError(gloo))
    assert isinstance(found, PeersLostError)
    assert found.message.endswith("process of the job: Read error [127.0.0.1]:26015: Connection reset by peer")
    assert not isinstance(explain(OSError("Connection closed by peer")), PeersLostError)
    assert isinstance(explain(MemoryError("gloo")), OutOfMemoryError)


def test_an_unknown_exception_keeps_the_end_of_its_traceback():
    with pytest.raises(ValueError, match="x") as caught:
        int("x" * 5000)
    ending = describe(caught.value, 3)
    assert ending.rank == 3
    assert ending.exception.startswith("ValueError: ")
    assert ending.traceback.rstrip().endswith("x")
    assert len(ending.traceback) <= 2048
    assert describe(UserError("spec.x: wrong", "do y"), 0).traceback is None


def test_post_mortems_are_read_as_written(tmp_path):
    path = tmp_path / "rank-0.json"
    written = write_post_mortem(path, UserError("spec.x: wrong", "do y"), 1, formed=True)
    found = read_post_mortem(path)
    assert found.termination == written
    assert (found.consequence, found.formed) == (False, True)
    path.write_text("{")
    assert read_post_mortem(path) is None
    assert read_post_mortem(tmp_path / "none") is None


def large_report():
    saved = Checkpoint.model_validate_json(
        json.dumps({"step": 1, "path": "/p" * 100, "bytes": 1, "sha256": "a" * 64, "savedAt": "2026-01-01T00:00:00Z"})
    )
    evaluation = Evaluation(split="test", step=9, metrics={"loss": 0.5})
    return WorkerReport(
        uid="u", attempt=1, launch="l", sequence=1, phase=WorkerPhase.FINISHED, step=9, message="m" * 1000,
        checkpoints=[saved] * 100, evaluation=evaluation,
        heartbeats=[RankHeartbeat(rank=rank, step=9, seconds_ago=0) for rank in range(MOST_HEARTBEATS)],
    )  # fmt: skip


def test_a_success_keeps_as_much_of_its_report_as_fits():
    encoded = fit(Termination(exit_code=0, report=large_report()))
    assert len(encoded) <= 4096
    report = Termination.model_validate_json(encoded).report
    assert report.step == 9
    assert report.evaluation.metrics == {"loss": 0.5}
    assert report.heartbeats == []
    assert report.checkpoints


def test_a_failure_always_fits():
    text = "\u2603" * 512
    ending = Termination(exit_code=70, message=text * 2, hint=text, exception=text, traceback=text * 4)
    assert len(fit(ending)) <= 4096


def test_a_termination_log_that_cannot_be_written_is_no_failure(tmp_path):
    write_termination(str(tmp_path / "none" / "log"), Termination(exit_code=0))
    write_termination(str(tmp_path / "log"), Termination(exit_code=0, report=first_report("u", 1, "l")))
    assert Termination.model_validate_json((tmp_path / "log").read_text()).report.uid == "u"
