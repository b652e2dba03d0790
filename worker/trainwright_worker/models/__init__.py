"""Models: layers to torch modules."""
