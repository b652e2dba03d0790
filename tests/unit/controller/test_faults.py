"""Whatever goes wrong once, at whichever call or event, the job comes to the end it would have come to anyway."""

import faulty_cluster
import pytest
from faulty_cluster import FaultyCluster, answers
from stories import STORIES, outcome, tell

CALL_FAULTS = {
    "conflict": answers(409, "Conflict"),
    "gone": answers(410, "Expired"),
    "too many requests": answers(429, "TooManyRequests"),
    "server error": answers(500, "InternalError"),
    "no answer": faulty_cluster.no_answer,
    "answer lost": faulty_cluster.answer_lost,
    "a listing a bit stale": faulty_cluster.stale_listing(3),
    "a listing quite stale": faulty_cluster.stale_listing(12),
}
EVENT_FAULTS = {
    "dropped": faulty_cluster.dropped,
    "repeated": faulty_cluster.repeated,
    "belated": faulty_cluster.belated,
}
MORE_CALLS = 20
"""So many calls more than undisturbed are enough to mend one fault, with all that resyncs ask meanwhile."""


@pytest.fixture(scope="module")
def undisturbed():
    return {name: tell(story, FaultyCluster()) for name, story in STORIES.items()}


def check(cluster, straight, what):
    assert outcome(cluster) == outcome(straight), f"{what}: {cluster.calls} {cluster.writes}"
    assert cluster.violations == [], f"{what}: {cluster.writes}"
    assert len(cluster.calls) <= len(straight.calls) + MORE_CALLS, f"{what}: {cluster.calls}"


@pytest.mark.parametrize("fault", CALL_FAULTS)
@pytest.mark.parametrize("story", STORIES)
def test_a_fault_at_any_call_changes_nothing_in_the_end(undisturbed, story, fault):
    straight = undisturbed[story]
    assert outcome(straight)[0] == STORIES[story].end
    for at, call in enumerate(straight.calls):
        disturbed = tell(STORIES[story], FaultyCluster(fault=CALL_FAULTS[fault], at=at))
        check(disturbed, straight, f"{fault} at call {at}, {call}")


@pytest.mark.parametrize("fault", EVENT_FAULTS)
@pytest.mark.parametrize("story", STORIES)
def test_a_fault_of_the_watch_changes_nothing_in_the_end(undisturbed, story, fault):
    straight = undisturbed[story]
    for at in range(straight.events):
        disturbed = tell(STORIES[story], FaultyCluster(event_fault=EVENT_FAULTS[fault], at=at))
        check(disturbed, straight, f"event {at} {fault}")
