"""Records on their way to trackers, without any tracker's own library."""

import struct
import threading

from trainwright.api.figures import Evaluation
from trainwright_worker.tracking import events
from trainwright_worker.tracking.recorder import Recorder
from trainwright_worker.tracking.tensorboard import TensorboardTracker
from trainwright_worker.tracking.tracker import Ending, Record, RunInfo, flatten
from trainwright_worker.tracking.tracking import _numbers


class Kept:
    """A tracker that keeps what it gets."""

    def __init__(self):
        self.records = []
        self.ending = None

    def write(self, records):
        self.records += records

    def close(self, ending, artifacts):
        self.ending = (ending, artifacts)


def test_a_specification_becomes_flat_parameters():
    assert flatten({"a": {"b": [1, {"c": "x"}]}, "d": 0.5}) == {"a.b.0": 1, "a.b.1.c": "x", "d": 0.5}


def test_what_is_told_is_plotted_where_it_is_a_number():
    told = {
        "step": 7,
        "total_steps": 9,
        "loss": 0.5,
        "grad_norm": None,
        "message": "text",
        "evaluation": Evaluation(split="validation", step=5, metrics={"loss": 1.0}),
    }
    assert _numbers(told) == {"loss": 0.5}


def test_a_recorder_makes_its_tracker_with_the_first_record_and_hands_on_all_in_order():
    kept, makers = Kept(), []

    def make():
        makers.append(threading.current_thread())
        return kept

    recorder = Recorder("kept", make, 0.0, print)
    assert makers == []
    for step in range(100):
        recorder.add(Record(step, 0.0, {}))
    recorder.end(Ending.FINISHED, {"weights": "/w"})
    recorder.join(10)
    assert [record.step for record in kept.records] == list(range(100))
    assert kept.ending == (Ending.FINISHED, {"weights": "/w"})
    assert len(makers) == 1
    assert makers[0] is not threading.main_thread()


def test_a_tracker_that_breaks_is_complained_of_once_and_takes_nothing_more():
    class Broken(Kept):
        def write(self, _):
            raise ConnectionError("no route\nto host")

    said = []
    recorder = Recorder("broken", Broken, 0.0, said.append)
    recorder.add(Record(1, 0.0, {}))
    recorder.join(10)
    recorder.add(Record(2, 0.0, {}))
    recorder.end(Ending.FINISHED, {})
    recorder.join(10)
    assert said == ["tracking with broken stopped: ConnectionError: no route"]


def test_a_run_without_records_needs_no_tracker():
    recorder = Recorder("none", lambda: 1 / 0, 0.0, print)
    recorder.end(Ending.FAILED, {})
    recorder.join(10)


def parse(content):
    """Return the payloads of TFRecords, checksums verified with the published test vector's algorithm."""
    payloads = []
    while content:
        (length,) = struct.unpack("<Q", content[:8])
        assert content[8:12] == events._masked_checksum(content[:8])
        payloads.append(content[12 : 12 + length])
        assert content[12 + length : 16 + length] == events._masked_checksum(payloads[-1])
        content = content[16 + length :]
    return payloads


def test_checksums_are_masked_crc32c():
    # RFC 3720, B.4: the CRC-32C of 32 bytes of zeros is 8a9136aa.
    rotated = (0x8A9136AA >> 15 | 0x8A9136AA << 17) + 0xA282EAD8
    assert events._masked_checksum(bytes(32)) == struct.pack("<I", rotated & 0xFFFFFFFF)


def test_a_launch_from_scratch_tells_readers_to_forget_all_steps(tmp_path):
    TensorboardTracker(str(tmp_path), RunInfo("job", "u1", 2, 0, {}, str(tmp_path)))
    (file,) = tmp_path.iterdir()
    _, start = parse(file.read_bytes())
    assert start[9:] == bytes([2 << 3, 1, 7 << 3 | 2, 2, 1 << 3, 1])


def test_going_back_to_a_checkpoint_is_told_to_readers(tmp_path):
    info = RunInfo("job", "u1", 1, 10, {}, str(tmp_path))
    tracker = TensorboardTracker(str(tmp_path), info)
    for step in (12, 14, 13):
        tracker.write([Record(step, 1.0, {"train/loss": float(step)})])
    (file,) = tmp_path.iterdir()
    payloads = parse(file.read_bytes())
    start = bytes([7 << 3 | 2, 2, 1 << 3, 1])
    assert [payload.endswith(start) for payload in payloads] == [False, True, False, False, True, False]
    assert payloads[1][9:11] == bytes([2 << 3, 11]), "forget what followed the checkpoint of step 10"
    assert payloads[4][9:11] == bytes([2 << 3, 13])
