"""Training on one rank: its data, model and state, the loop, and the pauses between steps."""
