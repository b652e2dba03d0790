"""A run without a cluster: its folder, its control loop and its display."""
