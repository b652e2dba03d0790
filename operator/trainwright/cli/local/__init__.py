"""A run without a cluster: its folder, the loop that drives it, and what a person sees of it."""
