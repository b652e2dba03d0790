"""Reads data sources, splits and processes them, and yields the batches of a rank."""
