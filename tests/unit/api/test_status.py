"""Texts of any length: whatever gets into a status fits its schema, and is the same before and after it was written."""

import pytest
from schema import violations
from situations import NOW

from trainwright.api.crd import crd
from trainwright.api.exit_codes import FailureClass
from trainwright.api.status import (
    AvoidedNode,
    Condition,
    Failure,
    Summary,
    TrainingJobStatus,
    WorkerStatus,
    read_status,
)

SCHEMA = crd()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["status"]
LONG = "why: " + "é" * 40_000 + " and so it ends"


def fits(status: TrainingJobStatus) -> bool:
    wire = status.to_wire()
    return list(violations(wire, SCHEMA)) == [] and read_status(wire) == status


def failure(**fields):
    return Failure(category=FailureClass.DATA, attempt=1, failed_at=NOW, **{"message": "m", **fields})


@pytest.mark.parametrize(
    "fields",
    [
        {"message": LONG},
        {"reason": LONG},
        {"conditions": [Condition(type="Failed", status="True", reason="X", message=LONG, last_transition_time=NOW)]},
        *({"failure": failure(**{name: LONG})} for name in ("message", "hint", "reason", "exception", "traceback")),
        {"avoided_nodes": [AvoidedNode(node="n", reason=LONG, since=NOW)]},
        {"summary": Summary(metric=LONG, workers=LONG)},
    ],
)
def test_a_text_of_any_length_fits(fields):
    assert fits(TrainingJobStatus(**fields))
    assert fits(TrainingJobStatus().model_copy(update=fields))
    worker = WorkerStatus(index=0, pod="p", phase="Pending", reason=LONG)
    workers = TrainingJobStatus().workers.model_copy(update={"pods": [worker]})
    assert fits(TrainingJobStatus(workers=workers))


def test_what_is_left_out_is_the_middle():
    said = TrainingJobStatus().model_copy(update={"message": LONG}).message
    assert len(said) == 4096
    assert said.startswith("why: ")
    assert said.endswith(" and so it ends")
    exact = "x" * 4096
    assert TrainingJobStatus(message=exact).message == exact
