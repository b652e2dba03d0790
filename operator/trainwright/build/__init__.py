"""Pure constructors of Kubernetes objects as plain dicts. No I/O, no clock, no decisions."""
