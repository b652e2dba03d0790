"""Encodes TensorBoard's event files: records with length and checksums, each with one `Event` message.

The messages are TensorBoard's own classes. The records around them are encoded here: importing the writers of the
`tensorboard` package or of `torch.utils.tensorboard` takes 0.4 s of CPU, seven times as long as the messages, and every
job writes event files by default. These writers also do not support object stores.
"""

import struct
from collections.abc import Mapping
from typing import Any, Final

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary

_POLYNOMIAL: Final = 0x82F63B78
"""CRC-32C (Castagnoli), reflected."""
_MASK_DELTA: Final = 0xA282EAD8


def _make_table() -> tuple[int, ...]:
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = (byte >> 1) ^ (_POLYNOMIAL if byte & 1 else 0)  # noqa: PLW2901 - a shift register
        table.append(byte)
    return tuple(table)


_TABLE: Final = _make_table()


def version_record(seconds: float) -> bytes:
    """Return the first record of every event file."""
    return _record(Event(wall_time=seconds, file_version="brain.Event:2"))


def start_record(seconds: float, step: int) -> bytes:
    """Return the record that makes readers discard everything from `step` on in earlier files of the run."""
    return _record(Event(wall_time=seconds, step=step, session_log=SessionLog(status=SessionLog.START)))


def scalars_record(seconds: float, step: int, values: Mapping[str, float]) -> bytes:
    """Return the record of the values at one step, float32 by tag."""
    scalars = [Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()]
    return _record(Event(wall_time=seconds, step=step, summary=Summary(value=scalars)))


def _record(event: Any) -> bytes:
    data: bytes = event.SerializeToString()
    length = struct.pack("<Q", len(data))
    return length + _masked_checksum(length) + data + _masked_checksum(data)


def _masked_checksum(data: bytes) -> bytes:
    checksum = 0xFFFFFFFF
    for byte in data:
        checksum = (checksum >> 8) ^ _TABLE[(checksum ^ byte) & 0xFF]
    checksum ^= 0xFFFFFFFF
    rotated = (checksum >> 15 | checksum << 17) + _MASK_DELTA
    return struct.pack("<I", rotated & 0xFFFFFFFF)
