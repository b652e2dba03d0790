"""Checkpoints: written in the background from a copy of the state, by all ranks with a part, and verified before use.

`checkpoints/step-00000100/` holds tensors as safetensors, everything else as JSON, and a manifest with the position of
every tensor and the size and checksum of every file. A folder is a checkpoint only if it is complete: in a file system
it is written under a temporary name and renamed at the end, in an object store the manifest is uploaded last.

torch.distributed.checkpoint plans which rank writes which part of which tensor, and which parts a rank reads if the
number of ranks or the sharding has changed. Its storage layer is not used, because it keeps metadata in a pickle, which
could execute code when it is loaded.
"""
