"""What a job learns to do, one file per task. Everything else asks the task, and never which task it is."""
