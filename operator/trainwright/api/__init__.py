"""The types of the API: the spec and status of a TrainingJob, and what operator and workers exchange.

Types only. Nothing here does I/O, reads a clock or imports more than pydantic and the standard library; everything
else in the project may import from here.
"""
