"""The control loop: events -> keyed queue -> observe -> plan -> apply. The planner makes all decisions."""
