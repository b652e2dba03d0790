"""Readers: files, or small known datasets, to tensors on their way to a rank."""
