"""The report of a chaos run, on the terminal and in a file, whatever else pytest says or keeps to itself."""

import kube
import pytest

REPORT = kube.ROOT / "runs" / "chaos.md"
_LINES = "lines of the chaos report"


@pytest.fixture
def tell(record_property):
    """Takes the lines of the report."""

    def take(lines: list[str]) -> None:
        # What a test records reaches the terminal from whichever process it ran in.
        record_property(_LINES, lines)
        REPORT.parent.mkdir(exist_ok=True)
        REPORT.write_text("\n".join([*lines, ""]))

    return take


def pytest_terminal_summary(terminalreporter) -> None:
    reports = [*terminalreporter.getreports("passed"), *terminalreporter.getreports("failed")]
    for lines in [value for report in reports for name, value in report.user_properties if name == _LINES]:
        terminalreporter.section(f"chaos, also in {REPORT.relative_to(kube.ROOT)}")
        terminalreporter.write("\n".join([*lines, ""]))
