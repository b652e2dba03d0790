"""The tasks of jobs, one file each. Other code calls methods of the task and does not distinguish between tasks."""
