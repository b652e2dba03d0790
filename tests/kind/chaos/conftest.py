"""The report of a chaos run, on the terminal and in a file, whatever else pytest says or keeps to itself."""

import sys

import kube
import pytest

REPORT = kube.ROOT / "runs" / "chaos.md"


@pytest.fixture
def tell(pytestconfig):
    """Takes the lines of the report."""
    capture = pytestconfig.pluginmanager.getplugin("capturemanager")

    def take(lines: list[str]) -> None:
        text = "\n".join([*lines, ""])
        REPORT.parent.mkdir(exist_ok=True)
        REPORT.write_text(text)
        with capture.global_and_fixture_disabled():
            sys.stdout.write(f"\nchaos, also in {REPORT.relative_to(kube.ROOT)}\n{text}")
            sys.stdout.flush()

    return take
