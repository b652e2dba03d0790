"""What holds for all tests: no property fails because the machine is busy, and which tests go to one process together."""

import pytest
from hypothesis import settings
from xdist.scheduler import LoadScopeScheduling

settings.register_profile("patient", deadline=None)
settings.load_profile("patient")

TOGETHER = ("tests/kind/test_queue.py", "tests/kind/alone", "tests/apiserver")
"""Tests that one process runs, one after the other: they share what is expensive to start, or cannot run beside each other."""
STAGES = ("tests/kind/test_queue.py", "tests/kind/test_", "tests/kind/alone", "")
"""What comes first. Tests that need the cluster alone mostly wait: those that need no cluster run beside them."""


class Scheduler(LoadScopeScheduling):
    """Gives each process the next test, or the next tests that belong together."""

    def _split_scope(self, nodeid: str) -> str:
        return next((scope for scope in TOGETHER if nodeid.startswith(scope)), nodeid)


def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> Scheduler | None:
    return Scheduler(config, log) if config.getoption("dist") == "loadscope" else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def stage(item: pytest.Item) -> int:
        return next(number for number, start in enumerate(STAGES) if item.nodeid.startswith(start))

    items.sort(key=stage)
