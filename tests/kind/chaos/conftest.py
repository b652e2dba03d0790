"""The report of a chaos run, on the terminal and in a file, whatever else pytest says or keeps to itself."""

import kube
import pytest

REPORT = kube.ROOT / "runs" / "chaos.md"
_LINES = pytest.StashKey[list[str]]()


@pytest.fixture
def tell(pytestconfig):
    """Takes the lines of the report."""

    def take(lines: list[str]) -> None:
        pytestconfig.stash[_LINES] = lines
        REPORT.parent.mkdir(exist_ok=True)
        REPORT.write_text("\n".join([*lines, ""]))

    return take


def pytest_terminal_summary(terminalreporter, config) -> None:
    lines = config.stash.get(_LINES, [])
    if lines:
        terminalreporter.section(f"chaos, also in {REPORT.relative_to(kube.ROOT)}")
        terminalreporter.write("\n".join([*lines, ""]))
