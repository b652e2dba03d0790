"""Writes safetensors files without a copy in memory, and reads boxes of tensors from a disk or an object store."""

import json
import math
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any, BinaryIO, Final, cast

import torch
from torch import Tensor
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
from torch.distributed.checkpoint.planner import ReadItem

from trainwright_worker.checkpoint.manifest import DTYPE_NAMES, DTYPES, Checksum, Chunk, Entry, FileEntry, Manifest
from trainwright_worker.storage import Part, Storage

_ALIGNMENT: Final = 8
_LENGTH_BYTES: Final = 8
LONGEST_HEADER: Final = 100_000_000
"""Maximum length of a header in bytes, as in the safetensors library."""


def write_tensors(storage: Storage, name: str, tensors: dict[str, Tensor]) -> tuple[FileEntry, dict[str, int]]:
    """Write a safetensors file without a second copy of its content in memory.

    Args:
        storage: The storage.
        name: Name of the file.
        tensors: Contiguous tensors on the CPU.

    Returns:
        Size and checksum of the file, and the position of each tensor in it.
    """
    # Wider data types first, so that every tensor is aligned to its element size.
    ordered = sorted(tensors.items(), key=lambda item: (-item[1].element_size(), item[0]))
    head, starts = _head_of(ordered)
    checksum = Checksum()

    def parts() -> Iterator[Part]:
        checksum.update(head)
        yield head
        for _, tensor in ordered:
            content = _bytes_of(tensor)
            checksum.update(content)
            yield content

    storage.write(name, parts())
    size = len(head) + sum(tensor.nbytes for _, tensor in ordered)
    return FileEntry(bytes=size, xxh3=checksum.hexdigest()), starts


def _head_of(ordered: list[tuple[str, Tensor]]) -> tuple[bytes, dict[str, int]]:
    """Return the header of a file, and the position of each tensor in the file."""
    header: dict[str, Any] = {}
    position = 0
    for key, tensor in ordered:
        end = position + tensor.nbytes
        header[key] = {
            "dtype": DTYPE_NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [position, end],
        }
        position = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    head = len(text).to_bytes(_LENGTH_BYTES, "little") + text
    return head, {key: len(head) + entry["data_offsets"][0] for key, entry in header.items()}


def read_header(storage: Storage, name: str) -> dict[str, Entry]:
    """Return the tensors of any safetensors file, each as one chunk.

    Raises:
        ValueError: It is not a valid safetensors file.
    """
    size = storage.walk(name.rpartition("/")[0])[name.rpartition("/")[2]].size
    with storage.open(name) as file:
        length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
        if not 0 < length <= min(size, LONGEST_HEADER):
            raise ValueError(f"{name} is not a safetensors file")
        header = json.loads(file.read(length))
    header.pop("__metadata__", None)
    entries = {}
    for key, facts in header.items():
        shape, (start, end) = facts["shape"], facts["data_offsets"]
        if facts["dtype"] not in DTYPES:
            raise ValueError(f"{name}: {key} has the unsupported data type {facts['dtype']}")
        start, end = _LENGTH_BYTES + length + start, _LENGTH_BYTES + length + end
        if end > size or end - start != math.prod(shape) * DTYPES[facts["dtype"]].itemsize:
            raise ValueError(f"{name} is damaged: {key} extends beyond the end of the file")
        chunk = Chunk(file=name.rpartition("/")[2], start=start, offsets=[0] * len(shape), sizes=shape)
        entries[key] = Entry(dtype=facts["dtype"], shape=shape, chunks=[chunk])
    return entries


def read_tensors(storage: Storage, folder: str, manifest: Manifest, targets: dict[str, Tensor]) -> None:
    """Fill tensors from a verified checkpoint, whatever sharding they were saved with.

    Args:
        storage: The storage of the checkpoint.
        folder: The folder of the checkpoint.
        manifest: The manifest of the checkpoint.
        targets: Tensors by name; the manifest contains all of them, with the same shapes. For a DTensor, only this
            rank's shard is read.
    """
    metadata = manifest.metadata()
    planner = DefaultLoadPlanner(flatten_state_dict=False, flatten_sharded_tensors=False)
    planner.set_up_planner(dict(targets), metadata)
    items = planner.finish_plan(planner.create_local_plan()).items
    places: list[tuple[Chunk, ReadItem]] = [(metadata.storage_data[item.storage_index], item) for item in items]
    places.sort(key=lambda place: (place[0].file, place[0].start))
    for name, parts in groupby(places, key=lambda place: place[0].file):
        with storage.open(f"{folder}/{name}" if folder else name) as file:
            for chunk, item in parts:
                dtype = DTYPES[manifest.tensors[item.storage_index.fqn].dtype]
                target = planner.resolve_tensor(item).detach()
                target.copy_(_read_box(file, chunk, dtype, item.storage_offsets, item.lengths))


def _read_box(
    file: BinaryIO, chunk: Chunk, dtype: torch.dtype, offsets: Sequence[int], lengths: Sequence[int]
) -> Tensor:
    """Return a box of a chunk; reads only the rows that contain it."""
    # A scalar is treated as one row.
    first, rows, row = (offsets[0], lengths[0], chunk.sizes[1:]) if chunk.sizes else (0, 1, [])
    width = math.prod(row) * dtype.itemsize
    if rows * width == 0:
        return torch.empty(tuple(lengths), dtype=dtype)
    file.seek(chunk.start + first * width)
    content = bytearray(rows * width)
    _fill(file, memoryview(content))
    tensor = torch.frombuffer(content, dtype=dtype).view((rows, *row) if chunk.sizes else ())
    for dimension in range(1, len(chunk.sizes)):
        tensor = tensor.narrow(dimension, offsets[dimension], lengths[dimension])
    return tensor


def _fill(file: BinaryIO, view: memoryview) -> None:
    while view:
        count = cast("Any", file).readinto(view)
        if not count:
            raise EOFError("the file is shorter than its manifest says")
        view = view[count:]


def _bytes_of(tensor: Tensor) -> memoryview:
    return tensor.reshape(-1).view(torch.uint8).numpy().data
