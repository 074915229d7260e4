"""Faults on purpose, under load, and a checker of what the service promises."""
