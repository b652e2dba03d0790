"""The language of Trainwright: what a user writes, what the resource says, what a worker reads and reports.

Types only. Nothing here does I/O, reads a clock or imports more than pydantic and the standard library; everything
else in the project may import from here.
"""
