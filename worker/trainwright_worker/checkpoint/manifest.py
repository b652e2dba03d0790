"""The manifest of a checkpoint: the position of each part of each tensor, and size and checksum of each file."""

from typing import Final

import torch
import xxhash
from pydantic import Field
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)

from trainwright.api.base import Model

MANIFEST: Final = "manifest.json"
FACTS: Final = "state.json"

Checksum: Final = xxhash.xxh3_128
"""Checksum that detects damaged files. SHA-256 would take about twelve times as long, and training needs the cores.

It does not protect against tampering, but nor would SHA-256: whoever can change a file can also change its manifest."""

DTYPES: Final = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
"""Data types by their names in safetensors."""
DTYPE_NAMES: Final = {dtype: name for name, dtype in DTYPES.items()}

Shape = list[int]


class Chunk(Model):
    """A box of a tensor, stored contiguously in row-major order in a file."""

    file: str = Field(pattern=r"^[^/.][^/]*$", description="Name of the file.")
    start: int = Field(ge=0, description="Position of its first byte.")
    offsets: Shape = Field(description="Start of the box in each dimension of the tensor.")
    sizes: Shape = Field(description="Size of the box in each dimension.")


class Entry(Model):
    """A tensor."""

    dtype: str = Field(pattern=f"^({'|'.join(DTYPES)})$", description="Its data type.")
    shape: Shape = Field(description="Its shape.")
    chunks: list[Chunk] = Field(description="The boxes that it was saved in.")


class FileEntry(Model):
    """A file of the checkpoint."""

    bytes: int = Field(ge=0, description="Its size.")
    xxh3: str = Field(description="XXH3 of its content, 128 bits in hexadecimal, as xxhsum -H2 prints it.")


class Manifest(Model):
    """A checkpoint."""

    step: int = Field(ge=0, description="Optimizer steps done.")
    best_step: int | None = Field(None, description="Step of the best evaluation so far.")
    files: dict[str, FileEntry] = Field(description="Every other file by its name.")
    tensors: dict[str, Entry] = Field(description="Every tensor by its name.")

    @property
    def size(self) -> int:
        """Bytes of all files together."""
        return sum(file.bytes for file in self.files.values())

    def metadata(self) -> Metadata:
        """Return the manifest as metadata of torch.distributed.checkpoint, with the chunks as storage data."""
        entries = {
            name: TensorStorageMetadata(
                TensorProperties(dtype=DTYPES[entry.dtype]),
                torch.Size(entry.shape),
                [ChunkStorageMetadata(torch.Size(chunk.offsets), torch.Size(chunk.sizes)) for chunk in entry.chunks],
            )
            for name, entry in self.tensors.items()
        }
        places = {
            MetadataIndex(name, chunk.offsets): chunk for name, entry in self.tensors.items() for chunk in entry.chunks
        }
        return Metadata(dict(entries), storage_data=places)

    def names(self, kind: str) -> set[str]:
        """Return the names of all tensors of a kind ("model"), without the kind."""
        return {name.removeprefix(f"{kind}.") for name in self.tensors if name.startswith(f"{kind}.")}


def digest(content: bytes) -> FileEntry:
    """Return the entry of a file with this content."""
    return FileEntry(bytes=len(content), xxh3=Checksum(content).hexdigest())
