"""Killed after any single write and started afresh, the loop reaches the same end as if nothing had happened."""

import pytest
from memory_cluster import MemoryCluster
from stories import STORIES, outcome, tell


@pytest.mark.parametrize("story", STORIES)
def test_the_end_does_not_depend_on_where_it_was_killed(story):
    undisturbed = tell(STORIES[story], MemoryCluster())
    expected = outcome(undisturbed)
    assert expected[0] == STORIES[story].end
    for writes in range(1, len(undisturbed.writes) + 1):
        killed = tell(STORIES[story], MemoryCluster(), die_after=writes)
        assert outcome(killed) == expected, f"killed after write {writes}: {killed.writes}"
        made = [name for verb, kind, name in killed.writes if (verb, kind) == ("create", "Pod")]
        assert len(made) == len(set(made)), f"killed after write {writes}, a pod was made twice: {killed.writes}"
