"""One rank in training: what it needs, its loop, and what happens between the steps."""
