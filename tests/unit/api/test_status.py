"""Whatever gets into a status fits its schema, under names that it knows, and is the same after it was written and read."""

import json

import pytest
from schema import violations
from situations import NOW

from trainwright.api.crd import crd
from trainwright.api.exit_codes import FailureClass
from trainwright.api.status import (
    AvoidedNode,
    Condition,
    Failure,
    Metrics,
    Progress,
    Summary,
    TrainingJobStatus,
    WorkerStatus,
    read_status,
)
from trainwright.api.worker import WorkerReport

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


@pytest.mark.parametrize("part", [TrainingJobStatus(), Progress(), WorkerReport.model_construct(), Metrics()])
def test_a_copy_is_made_with_known_fields_only(part):
    with pytest.raises(TypeError, match=f"{type(part).__name__} has no field typo"):
        part.changed(typo=1)
    with pytest.raises(TypeError, match="typo"):
        part.model_copy(update={"typo": 1})


def test_a_part_of_a_later_version_is_read():
    assert Metrics.model_validate({"loss": 1.0, "later": 2}).loss == 1.0
    told = {"uid": "u", "attempt": 1, "launch": "a", "sequence": 1, "phase": "Training", "loss": 0.5, "later": {}}
    assert WorkerReport.model_validate_json(json.dumps(told)).loss == 0.5
