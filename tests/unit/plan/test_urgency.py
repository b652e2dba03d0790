"""What a status weighs, what waits for it and what it must rest on, field by field."""

from datetime import UTC, datetime

import pytest

from trainwright.api.status import Condition, Failure, FailureClass, Phase, TrainingJobStatus
from trainwright.plan.urgency import Urgency, counts, moves_pods, urgency

NOW = datetime(2026, 1, 1, tzinfo=UTC)
RUNNING = TrainingJobStatus(phase=Phase.RUNNING, attempt=2, oldest_attempt=1, reason="Training", observed_generation=1)
LOST = Failure(category=FailureClass.INFRASTRUCTURE, message="gone", failed_at=NOW, attempt=2)
FEWER = Condition(type="Degraded", status="True", reason="FewerWorkers", message="", last_transition_time=NOW)


@pytest.mark.parametrize(
    ("change", "weight", "moves", "charges"),
    [
        ({}, Urgency.PROGRESS, False, False),
        ({"message": "step 5"}, Urgency.PROGRESS, False, False),
        ({"reason": "NodeSilent"}, Urgency.NEWS, False, False),
        ({"failure": LOST}, Urgency.NEWS, False, False),
        ({"conditions": [FEWER]}, Urgency.NEWS, False, False),
        ({"observed_generation": 2}, Urgency.DECISION, False, False),
        ({"phase": Phase.STARTING}, Urgency.DECISION, False, False),
        ({"phase": Phase.SUSPENDED}, Urgency.DECISION, True, False),
        ({"budget_spent_at": NOW}, Urgency.DECISION, True, False),
        ({"attempt": 3}, Urgency.DECISION, True, True),
        ({"oldest_attempt": 2}, Urgency.DECISION, True, True),
        ({"restarts": 1}, Urgency.DECISION, False, True),
        ({"finished_at": NOW, "phase": Phase.FAILED}, Urgency.DECISION, False, True),
    ],
)
def test_what_changes_says_what_it_weighs(change, weight, moves, charges):
    after = RUNNING.model_copy(update=change)
    assert urgency(RUNNING, after) == weight
    assert moves_pods(RUNNING, after) == moves
    assert counts(RUNNING, after) == charges


def test_the_first_start_is_charged_to_nobody():
    before = TrainingJobStatus()
    after = before.model_copy(update={"attempt": 1, "oldest_attempt": 1, "phase": Phase.PENDING})
    assert urgency(before, after) == Urgency.DECISION
    assert moves_pods(before, after)
    assert not counts(before, after)
