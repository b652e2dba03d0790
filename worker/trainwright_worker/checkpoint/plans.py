"""Converts save plans of torch.distributed.checkpoint to JSON and back, so that ranks can exchange them."""

import json
from typing import cast

import torch
from torch.distributed.checkpoint.metadata import ChunkStorageMetadata, MetadataIndex, TensorProperties
from torch.distributed.checkpoint.planner import SavePlan, TensorWriteData, WriteItem, WriteItemType

from trainwright_worker.checkpoint.manifest import DTYPE_NAMES, DTYPES


def encode_plan(plan: SavePlan) -> bytes:
    """Return a plan of tensors as JSON."""
    items = []
    for item in plan.items:
        data, box = tensor_of(item), box_of(item)
        kind = DTYPE_NAMES[data.properties.dtype]
        sharded = item.type == WriteItemType.SHARD
        items.append([item.index.fqn, sharded, kind, list(data.size), list(box.offsets), list(box.sizes)])
    return json.dumps(items).encode()


def decode_plan(content: bytes) -> SavePlan:
    """Return the plan that `encode_plan` wrote."""
    return SavePlan(
        [
            WriteItem(
                MetadataIndex(name, offsets),
                WriteItemType.SHARD if sharded else WriteItemType.TENSOR,
                tensor_data=TensorWriteData(
                    ChunkStorageMetadata(torch.Size(offsets), torch.Size(sizes)),
                    TensorProperties(dtype=DTYPES[dtype]),
                    torch.Size(shape),
                ),
            )
            for name, sharded, dtype, shape, offsets, sizes in json.loads(content)
        ]
    )


def tensor_of(item: WriteItem) -> TensorWriteData:
    """Return the tensor metadata of an item, which all items here have."""
    return cast("TensorWriteData", item.tensor_data)


def box_of(item: WriteItem) -> ChunkStorageMetadata:
    """Return the box of its tensor that an item covers."""
    return tensor_of(item).chunk
