"""Estimates, before training, what a job needs: shapes, parameters, memory and floating-point operations."""
