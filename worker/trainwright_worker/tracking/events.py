"""TensorBoard's event files: TFRecords of `Event` messages, of which a run needs four fields.

Written here rather than by the `tensorboard` package because that takes half a second to import, which every job would pay
before or during its first steps; the format has not changed in ten years.
"""

import struct
from collections.abc import Mapping
from typing import Final

_POLYNOMIAL: Final = 0x82F63B78
"""CRC-32C (Castagnoli), reflected."""
_MASK_DELTA: Final = 0xA282EAD8
_SESSION_START: Final = 1

# Field numbers of tensorboard/compat/proto/event.proto and summary.proto.
_WALL_TIME, _STEP, _FILE_VERSION, _SUMMARY, _SESSION_LOG = 1, 2, 3, 5, 7
_VALUE = 1
_TAG, _SIMPLE_VALUE = 1, 2
_STATUS = 1
_VARINT, _DOUBLE, _BYTES, _FLOAT = 0, 1, 2, 5


def _make_table() -> tuple[int, ...]:
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = (byte >> 1) ^ (_POLYNOMIAL if byte & 1 else 0)  # noqa: PLW2901 - a shift register
        table.append(byte)
    return tuple(table)


_TABLE: Final = _make_table()


def version_record(seconds: float) -> bytes:
    """Return the record that every event file begins with."""
    return _record(_event(seconds) + _bytes(_FILE_VERSION, b"brain.Event:2"))


def start_record(seconds: float, step: int) -> bytes:
    """Return the record that makes readers forget everything from `step` on in earlier files of the run."""
    status = _key(_STATUS, _VARINT) + _varint(_SESSION_START)
    return _record(_event(seconds, step) + _bytes(_SESSION_LOG, status))


def scalars_record(seconds: float, step: int, values: Mapping[str, float]) -> bytes:
    """Return the record of what was measured at one step, float32 by tag."""
    summary = b"".join(
        _bytes(_VALUE, _bytes(_TAG, tag.encode()) + _key(_SIMPLE_VALUE, _FLOAT) + struct.pack("<f", value))
        for tag, value in values.items()
    )
    return _record(_event(seconds, step) + _bytes(_SUMMARY, summary))


def _event(seconds: float, step: int = 0) -> bytes:
    return _key(_WALL_TIME, _DOUBLE) + struct.pack("<d", seconds) + _key(_STEP, _VARINT) + _varint(step)


def _record(data: bytes) -> bytes:
    length = struct.pack("<Q", len(data))
    return length + _masked_checksum(length) + data + _masked_checksum(data)


def _masked_checksum(data: bytes) -> bytes:
    checksum = 0xFFFFFFFF
    for byte in data:
        checksum = (checksum >> 8) ^ _TABLE[(checksum ^ byte) & 0xFF]
    checksum ^= 0xFFFFFFFF
    rotated = (checksum >> 15 | checksum << 17) + _MASK_DELTA
    return struct.pack("<I", rotated & 0xFFFFFFFF)


def _bytes(field: int, content: bytes) -> bytes:
    return _key(field, _BYTES) + _varint(len(content)) + content


def _key(field: int, wire: int) -> bytes:
    return _varint(field << 3 | wire)


def _varint(number: int) -> bytes:
    parts = bytearray()
    while number > 0x7F:  # noqa: PLR2004 - seven bits a byte
        parts.append(number & 0x7F | 0x80)
        number >>= 7
    parts.append(number)
    return bytes(parts)
