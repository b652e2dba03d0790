"""Checkpoints: copied first so that training goes on, written by all ranks that hold a part, verified before use.

`checkpoints/step-00000100/` holds tensors as safetensors, everything else as JSON, and a manifest with the place of every
tensor and the size and SHA-256 of every file. The manifest makes it a checkpoint: in a file system the folder is written
under another name and renamed when complete, in an object store the manifest is uploaded last.

torch.distributed.checkpoint plans who writes which part of which tensor and who reads what when the number of ranks or
the way they share the model has changed. Its own storage is not used: that keeps metadata in a pickle, and here nothing
that is loaded can execute code.
"""
