"""The ranks of a job: where each stands, what they exchange, how they share a model."""
