"""Builds models, and loads, adapts and runs them."""
