"""A loop that fails again and again is not waited for in silence."""

import structlog

from trainwright.cli.local.folder import RunFolder
from trainwright.cli.local.session import logging_to


def test_trouble_of_the_loop_is_told_once_and_logged_in_full(tmp_path):
    folder = RunFolder.create(tmp_path, "digits")
    told = []
    with logging_to(folder, told.append):
        log = structlog.get_logger()
        log.warning("not worth a word")
        for _ in range(2):
            log.error("pass failed and will be repeated", exc_info=ValueError("why"))
    assert told == [f"Trainwright itself is in trouble: pass failed and will be repeated; see {folder.controller_log}"]
    logged = folder.controller_log.read_text()
    assert logged.count("ValueError: why") == 2
    assert "not worth a word" in logged
