"""The ranks of a job: their placement, their communication, and how they share a model."""
