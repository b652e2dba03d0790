"""Each run has a folder of its own, from which it can go on."""

from trainwright.cli.local.folder import RunFolder
from trainwright.cli.local.logs import ends, read_new_lines

JOB = {
    "kind": "TrainingJob",
    "metadata": {"name": "digits", "uid": "u", "resourceVersion": "7"},
    "status": {"attempt": 1},
}


def test_runs_are_numbered(tmp_path):
    paths = [RunFolder.create(tmp_path / "runs", "digits").path for _ in range(2)]
    assert [path.name for path in paths] == ["digits-1", "digits-2"]


def test_a_job_survives_its_process(tmp_path):
    folder = RunFolder.create(tmp_path, "digits")
    folder.save(JOB)
    folder.lock.close()
    loaded = RunFolder.reopen(folder.path).load()
    assert loaded == {**JOB, "metadata": {"name": "digits", "uid": "u"}}


def test_log_lines_are_told_once_and_whole(tmp_path):
    told = []
    (tmp_path / "controller.log").write_text("not a worker\n")
    log = tmp_path / "digits-0-1.log"
    log.write_text("before\n")
    positions = ends(tmp_path)
    for text in ("\none\ntw", "o\n", ""):
        with log.open("a") as file:
            file.write(text)
        read_new_lines(tmp_path, positions, lambda pod, line: told.append((pod, line)))
    assert told == [("digits-0-1", ""), ("digits-0-1", "one"), ("digits-0-1", "two")]
